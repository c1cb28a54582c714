"""The recipe of a cold start: data, teachers, prompts, filters, output."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from saccade.coldstart.filter_options import FilterOptions
from saccade.config import Config
from saccade.data.config import WORLD, DataConfig
from saccade.rollout.config import Sampling
from saccade.runs.drafts import TeacherStage

if TYPE_CHECKING:
    from saccade.endpoint import RequestLimits


class SamplingConfig(Sampling):
    """Sampling options of a step."""

    moved: ClassVar[dict[str, str]] = {"max_tokens": "max_new_tokens"}

    temperature: float = Field(default=0.6, gt=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_new_tokens: int = Field(default=1024, ge=1)
    seed: int = 0
    """Sample n of the reasoner uses `seed + n`."""

    @model_validator(mode="after")
    def _a_server_can(self) -> SamplingConfig:
        if self.repetition_stop:
            raise ValueError("'repetition_stop' is not an option of a teacher; remove it")
        return self


class SamplingTable(Config):
    """Sampling options by step. The plain caption uses those of the description: the same token budget."""

    pseudo_cot: SamplingConfig = SamplingConfig()
    description: SamplingConfig = SamplingConfig()
    reasoning: SamplingConfig = SamplingConfig(max_new_tokens=8192)


class PromptTable(Config):
    """Names of packaged prompts, or paths of custom ones."""

    caption: str = "caption"
    pseudo_cot: str = "pseudo_cot"
    description: str = "description"
    reasoning: str = "reasoning"
    reasoning_blind: str = "reasoning_blind"
    """For the arm that gets only the question."""
    answer: str = "answer"
    """Appended to the prompts of the steps in `answer_in`."""


class EndpointTeacher(Config):
    """A model on an OpenAI-compatible server."""

    teacher: Literal["endpoint"] = "endpoint"
    url: str
    """Base address, as http://host:8000 or https://host/v1."""
    model: str
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key, if the server needs one."""
    concurrency: int = Field(default=16, ge=1)
    """Concurrent requests."""
    timeout_s: float = Field(default=300.0, gt=0)
    """Timeout of one attempt."""
    deadline_s: float = Field(default=1800.0, gt=0)
    """Limit for one request including all retries."""
    retries: int = Field(default=4, ge=0)
    backoff_s: float = Field(default=0.5, ge=0)
    """Delay before the first retry; doubled each time, with jitter."""
    price_in: float = Field(default=0.0, ge=0)
    """Per million prompt tokens."""
    price_out: float = Field(default=0.0, ge=0)
    """Per million completion tokens."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Added to each request unchanged: {top_k: 20}."""

    @field_validator("key_variable")
    @classmethod
    def _a_name_and_no_key(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z_]\w{0,99}", value, re.ASCII):
            raise ValueError("expected the name of an environment variable, such as OPENAI_API_KEY (got another text)")
        return value

    @property
    def limits(self) -> RequestLimits:
        from saccade.endpoint import RequestLimits

        return RequestLimits(self.concurrency, self.timeout_s, self.deadline_s, self.retries, self.backoff_s)


class WorldDescriber(Config):
    """Oracle describer of the procedural world, with configurable error and omission rates."""

    teacher: Literal["world"]
    error_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability that a fact is misread."""
    omission_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability that a fact is omitted."""


class WorldReasoner(Config):
    """Oracle reasoner about the procedural world that uses only the text it is given."""

    teacher: Literal["world"]
    slip_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability that a chain ends in an answer that contradicts its evidence."""


class ColdStartRecipe(Config):
    """`saccade coldstart`."""

    kind: Literal["coldstart"]
    out: Path
    """The directory of the set. Running the same recipe again resumes there."""
    data: tuple[DataConfig, ...] = Field(min_length=1)
    vision: Annotated[EndpointTeacher | WorldDescriber, Field(discriminator="teacher")]
    """Sees the images: pseudo-CoT, description, caption."""
    reasoner: Annotated[EndpointTeacher | WorldReasoner, Field(discriminator="teacher")]
    """Sees only text."""
    sampling: SamplingTable = SamplingTable()
    prompts: PromptTable = PromptTable()
    answer_in: tuple[TeacherStage, ...] = ()
    """Steps that are shown the answer; recorded in every row. Vision-R1 showed it to pseudo_cot and reasoning."""
    samples: int = Field(default=4, ge=1)
    """Chains per row."""
    bridge: bool = True
    """False: the reasoner gets a plain caption in place of the bridged description, as a control of the whole chain."""
    ablation: int = Field(default=0, ge=0)
    """For N rows, spread over the data, the reasoner also answers once from a plain caption and once from nothing."""
    prefer: Literal["shortest", "diverse"] = "shortest"
    """Which right chains go into the set: the shortest, or the shortest and then those that differ most."""
    keep: int = Field(default=1, ge=1)
    """Maximum chains per row in the set."""
    polish: bool = True
    """Rewrite chains as if the image had been seen, not described."""
    filters: tuple[str, ...] | None = None
    """Names of `coldstart.filters.FILTERS` in order of evaluation; null: all of them, empty: none."""
    filter_options: FilterOptions = FilterOptions()
    images: Literal["copy", "path"] = "copy"
    """Images of the set: copied into its directory (as hard links where possible), or referenced by their path."""
    rows: int = Field(default=64, ge=1)
    """Concurrent rows per process; the others stay in the store."""
    attempts: int = Field(default=3, ge=1)
    """Attempts per row before it counts as failed until the next start. Each includes the retries of the endpoint."""
    retry_after_s: float = Field(default=10.0, ge=0)
    """Delay before a row is retried; doubled each time."""
    stop_after: int = Field(default=200, ge=1)
    """The run stops after this many consecutive failures without a successful step."""
    lease_s: float = Field(default=120.0, ge=1.0)
    """Time after which a row claimed by a dead process on another machine is free again."""

    @model_validator(mode="after")
    def _fits_together(self) -> ColdStartRecipe:
        if not self.bridge:
            self._no_bridge_options()
        for number, entry in enumerate(self.data):
            if entry.source == WORLD and entry.limit is None:
                raise ValueError(f"data.{number}: the world is infinite; set a 'limit'")
            if entry.source != WORLD and isinstance(self.vision, WorldDescriber):
                raise ValueError(
                    f"data.{number}: 'teacher: world' works only on the procedural world; got source {entry.source!r}"
                )
        return self

    def _no_bridge_options(self) -> None:
        """ValueError for keys of the steps that `bridge: false` leaves out."""
        idle = {
            "ablation": self.ablation > 0,
            "answer_in": bool({"pseudo_cot", "description"} & set(self.answer_in)),
            "sampling.pseudo_cot": self.sampling.pseudo_cot != SamplingTable().pseudo_cot,
            "prompts.pseudo_cot": self.prompts.pseudo_cot != PromptTable().pseudo_cot,
            "prompts.description": self.prompts.description != PromptTable().description,
        }
        if found := [key for key, given in idle.items() if given]:
            raise ValueError(
                f"{', '.join(found)}: no effect with bridge: false, which only writes a caption; remove it"
            )
