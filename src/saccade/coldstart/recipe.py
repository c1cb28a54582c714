"""The recipe of a cold start: which data, which teachers, what they are told, what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from saccade.coldstart.drafts import TeacherStage
from saccade.coldstart.filter_options import FilterOptions
from saccade.config import Config
from saccade.data import DataConfig
from saccade.data.sources import WORLD
from saccade.endpoint import Limits


class SamplingConfig(Config):
    """How a step samples."""

    temperature: float = Field(default=0.6, ge=0.0)
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    max_tokens: int = Field(default=1024, ge=1)
    seed: int = 0
    """Sample n of the reasoner asks with `seed + n`."""


class SamplingTable(Config):
    """By step. The plain caption has the description's, so that both have the same budget of tokens."""

    pseudo_cot: SamplingConfig = SamplingConfig()
    description: SamplingConfig = SamplingConfig()
    reasoning: SamplingConfig = SamplingConfig(max_tokens=8192)


class PromptTable(Config):
    """Names of packaged prompts, or files of your own."""

    caption: str = "caption"
    pseudo_cot: str = "pseudo_cot"
    description: str = "description"
    reasoning: str = "reasoning"
    reasoning_blind: str = "reasoning_blind"
    """For the arm that is given nothing but the question."""
    answer: str = "answer"
    """What is added where `answer_in` shows the answer."""


class EndpointTeacher(Config):
    """A model on an OpenAI-compatible server."""

    teacher: Literal["endpoint"] = "endpoint"
    url: str
    """Base address, as http://host:8000 or https://host/v1."""
    model: str
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key, if the server wants one."""
    concurrency: int = Field(default=16, ge=1)
    """Requests under way at once."""
    timeout_s: float = Field(default=300.0, gt=0)
    """For one attempt."""
    deadline_s: float = Field(default=1800.0, gt=0)
    """For one request with all its attempts."""
    retries: int = Field(default=4, ge=0)
    backoff_s: float = Field(default=0.5, ge=0)
    """The first pause before another attempt; doubled each time, with a random part."""
    price_in: float = Field(default=0.0, ge=0)
    """Per million tokens read."""
    price_out: float = Field(default=0.0, ge=0)
    """Per million tokens written."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Go into each request as they are: {top_k: 20}."""

    @property
    def limits(self) -> Limits:
        return Limits(self.concurrency, self.timeout_s, self.deadline_s, self.retries, self.backoff_s)


class WorldDescriber(Config):
    """Eyes that know the truth of the procedural world, and get wrong or leave out what they are told to."""

    teacher: Literal["world"]
    error_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Chance that a fact is read wrongly."""
    omission_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Chance that a fact is left out."""


class WorldReasoner(Config):
    """A reasoner about the procedural world that has nothing but the text it is given."""

    teacher: Literal["world"]
    slip_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Chance that a chain ends in another answer than its evidence says."""


class ColdStartRecipe(Config):
    """`saccade coldstart`."""

    kind: Literal["coldstart"]
    out: Path
    """The directory of the set. Started again with the same recipe, work goes on there."""
    data: tuple[DataConfig, ...] = Field(min_length=1)
    vision: Annotated[EndpointTeacher | WorldDescriber, Field(discriminator="teacher")]
    """Sees the images: pseudo-CoT, description, caption."""
    reasoner: Annotated[EndpointTeacher | WorldReasoner, Field(discriminator="teacher")]
    """Sees text alone."""
    sampling: SamplingTable = SamplingTable()
    prompts: PromptTable = PromptTable()
    answer_in: tuple[TeacherStage, ...] = ()
    """Steps that are shown the answer; recorded in every row. Vision-R1 showed it to pseudo_cot and reasoning."""
    samples: int = Field(default=4, ge=1)
    """Chains per row."""
    ablation: int = Field(default=0, ge=0)
    """So many rows, spread over the data, are also asked once from a plain caption and once from nothing."""
    prefer: Literal["shortest", "diverse"] = "shortest"
    """Which right chains go into the set: the shortest, or after it those that differ most."""
    keep: int = Field(default=1, ge=1)
    """Chains per row in the set, at most."""
    polish: bool = True
    """Make chains read as seen, not as described."""
    filters: tuple[str, ...] | None = None
    """Names of `coldstart.filters.FILTERS` in the order they are asked; null is all of them, empty is none."""
    filter_options: FilterOptions = FilterOptions()
    images: Literal["copy", "path"] = "copy"
    """Images of the set: beside it (hard links where they can be), or by the path where they lie."""
    rows: int = Field(default=64, ge=1)
    """Rows under way at once in a process; further ones stay in the store."""
    attempts: int = Field(default=3, ge=1)
    """Of a row, before it is put aside as failed until the next start. Each has the retries of the endpoint within."""
    retry_after_s: float = Field(default=10.0, ge=0)
    """Pause before a row is tried again; doubled each time."""
    stop_after: int = Field(default=200, ge=1)
    """Failed attempts in a row, without a step that worked, after which the run stops: nothing gets through."""
    lease_s: float = Field(default=120.0, ge=1.0)
    """A row of a process that died on another machine is free again after so long."""

    @model_validator(mode="after")
    def _fits_together(self) -> ColdStartRecipe:
        for number, entry in enumerate(self.data):
            if entry.source == WORLD and entry.limit is None:
                raise ValueError(f"data.{number}: the world has no end; give it a 'limit'")
            if entry.source != WORLD and isinstance(self.vision, WorldDescriber):
                raise ValueError(
                    f"data.{number}: 'teacher: world' sees the procedural world alone; got source {entry.source!r}"
                )
        return self
