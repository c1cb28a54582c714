"""The recipe of an evaluation; nothing here imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from saccade.config import Config
from saccade.data.config import DataConfig
from saccade.evaluation.blinding import CONTROLS, Blinding
from saccade.models.config import ModelConfig
from saccade.rollout.config import DEFAULT_ENGINE, EngineConfig, Sampling
from saccade.types import FrameName

DRAWN = ("temperature", "top_p", "top_k", "min_p")
"""Options of sampling without effect on greedy replies."""


class Decoding(Sampling):
    """How replies are sampled, and how many per question."""

    greedy: bool = True
    max_new_tokens: int = Field(default=1024, ge=1)
    k: int = Field(default=1, ge=1)
    """Replies to each question; more than one needs `greedy: false`."""

    @property
    def name(self) -> Literal["greedy", "sampled"]:
        """Column `decoding` of the results."""
        return "greedy" if self.greedy else "sampled"

    @model_validator(mode="after")
    def _greedy_draws_nothing(self) -> Decoding:
        if self.greedy and self.k > 1:
            raise ValueError(
                f"k is {self.k} with greedy decoding, where all attempts are equal; set greedy: false or k: 1"
            )
        idle = [name for name in DRAWN if getattr(self, name) != Decoding.model_fields[name].default]
        if self.greedy and idle:
            raise ValueError(f"{', '.join(idle)}: no effect on greedy replies; set greedy: false")
        return self


class WorldBenchmark(Config):
    """Held-out questions of the visual world."""

    splits: tuple[str, ...] = Field(default=("test",), min_length=1)
    tasks: tuple[str, ...] = Field(default=("count",), min_length=1)
    n: int = Field(default=300, ge=1)
    """Questions per split and task."""
    seed: int = 0
    """Seed of the questions, in its own namespace; must be equal in runs that are compared."""


class ServerConfig(Config):
    """The server at the address `model`."""

    name: str
    """The model's name on the server."""
    frame: FrameName | None = None
    """What its box numbers mean; needed when answers are boxes."""
    resize: tuple[int, int, int] = (28, 56 * 56, 12_845_056)
    """Of frame pixels_resized: factor, minimum and maximum pixels of the server's processor."""


class JudgeConfig(Config):
    """A served model that extracts or scores answers where the protocol requires one."""

    url: str
    name: str
    """The model's name on the server."""


class EvalRecipe(Config):
    """The model, the questions, their prompts and grading."""

    kind: Literal["eval"] = "eval"
    benchmark: str | None = None
    """A name of `saccade eval --list`; null for the questions of `data` and `world`."""
    data: tuple[DataConfig, ...] = ()
    """Finite data sets."""
    world: WorldBenchmark | None = None
    path: Path | None = None
    """The benchmark's file or folder; null reads it from the Hugging Face hub."""
    image_folder: Path | None = None
    """What the benchmark's image names are relative to; the folder of `path` when null."""
    data_root: Path | None = None
    """The folder that the benchmark's image files must be in, / for anywhere. Null: those of `path` and `image_folder`,
    the cache of the hub and the sources that our own `convert` or cold start recorded."""
    format: str | None = None
    """Of benchmark jsonl: how rows are read, vlm_r1 when null."""
    subset: str | None = None
    mode: str | None = None
    """How replies are graded: official, strict, ..."""
    prompt: str | None = None
    """One of the benchmark's wordings."""
    template: str | None = None
    """A training template: around the benchmark's wording, or in place of the task's own."""
    system_prompt: str | None = None
    """System turn of all questions. A row's own system turn replaces it."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many questions, always the same ones; whole groups where questions depend on each other."""
    model: ModelConfig = ModelConfig(path="base", train=())
    """Its path may be the address of an OpenAI-compatible server; a string is its path."""
    server: ServerConfig | None = None
    engine: EngineConfig = DEFAULT_ENGINE
    """What generates for a model that is loaded here, as `rollout.engine` of a training recipe."""
    label: str = "model"
    """Column `model` of the results."""
    control: str | None = None
    """Column `control`: the name of the control that this run is, if it is one."""
    blind: Blinding | None = None
    """The blind control of all questions with images: swap asks them about the images of another question of the task
    with another answer, of the same wording where there is one; blank about gray ones."""
    decoding: Decoding = Decoding()
    also_greedy: bool = False
    """Also answer every question by greedy decoding, besides sampled replies."""
    seed: int = 0
    """Sampling seed. The seed of a question's replies is derived from this and its id."""
    batch_size: int = Field(default=32, ge=1)
    """Questions answered and written at a time."""
    forced_prefix: str = ""
    """Beginning of every reply, such as '<think>scan': all models forced to one habit. Graded and counted with the
    reply."""
    retries_until_parsed: int = Field(default=1, ge=1)
    """Attempts in all until a reply holds `</answer>`; Vision-R1's evaluation used 5 without reporting it."""
    judge: JudgeConfig | None = None
    kept_images: int = Field(default=24, ge=0)
    """Questions whose images are kept for the report, evenly from all splits and tasks."""
    out: str | None = None
    """The run's directory; runs/eval/<benchmark>-<label> when null."""

    @field_validator("model", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value, "train": ()} if isinstance(value, str) else value

    @property
    def served(self) -> bool:
        return self.model.path.startswith(("http://", "https://"))

    @property
    def directory(self) -> Path:
        return Path(self.out) if self.out else Path("runs") / "eval" / f"{self.benchmark or 'own'}-{self.label}"

    @property
    def control_name(self) -> str | None:
        return self.control or (CONTROLS[self.blind] if self.blind else None)

    def decodings(self) -> tuple[Decoding, ...]:
        """Those of the run, greedy first."""
        if not self.also_greedy:
            return (self.decoding,)
        shared = self.decoding.model_dump(exclude={"greedy", "k", *DRAWN})
        return (Decoding(**shared), self.decoding)

    @model_validator(mode="after")
    def _questions_fit(self) -> EvalRecipe:
        own = bool(self.data or self.world)
        if self.benchmark is None and not own:
            raise ValueError("nothing to evaluate; give a `benchmark`, or give `data` or `world`")
        if self.benchmark is None:
            names = ("path", "image_folder", "data_root", "format", "subset", "mode", "prompt", "judge")
            if given := [name for name in names if getattr(self, name) is not None]:
                raise ValueError(f"{', '.join(given)}: only for a `benchmark`; name one, or remove the others")
            return self
        if own:
            raise ValueError(f"got benchmark {self.benchmark!r} and `data` or `world`; give only one of them")
        from saccade.evaluation.benchmarks import BENCHMARKS  # twelve modules that other recipes do not need

        if self.benchmark not in BENCHMARKS:
            raise ValueError(f"there is no benchmark {self.benchmark!r}; expected one of {', '.join(BENCHMARKS)}")
        benchmark = BENCHMARKS[self.benchmark]
        mode = benchmark.mode(self.mode)
        benchmark.prompt(self.prompt)
        benchmark.subset(self.subset)
        if self.judge is not None and not mode.judge:
            raise ValueError(f"mode '{mode.name}' of {self.benchmark} uses no judge; remove `judge`")
        if self.format is not None and self.benchmark != "jsonl":
            raise ValueError(f"format: not an option of benchmark '{self.benchmark}'; remove it")
        if not benchmark.needs_data and (self.path or self.image_folder or self.data_root):
            raise ValueError(f"path, image_folder, data_root: benchmark '{self.benchmark}' reads no files; remove them")
        return self

    @model_validator(mode="after")
    def _model_and_replies_fit(self) -> EvalRecipe:
        if self.model.lora is not None:
            raise ValueError("model.lora trains adapters; to evaluate some, give their directory as model.path")
        if self.served and self.server is None:
            raise ValueError("a served model needs server.name, its name on the server")
        if self.served and self.decoding.repetition_stop:
            raise ValueError("decoding.repetition_stop is not an option of a served model; remove it")
        limits = [name for name in ("min_pixels", "max_pixels", "max_visual_tokens") if getattr(self.model, name)]
        if self.served and limits:
            raise ValueError(
                f"model.{limits[0]}: a server resizes images by its own checkpoint (one saved by a run has the run's "
                "limits) or its own options, such as --mm-processor-kwargs of vLLM; remove it"
            )
        if self.served and self.forced_prefix:
            raise ValueError("forced_prefix needs a local model: a server does not continue a reply; remove it")
        if self.served and self.engine != DEFAULT_ENGINE:
            raise ValueError("engine is for a model that is loaded here; a served model has its own; remove it")
        if self.server is not None and not self.served:
            raise ValueError("server is only for a served model, such as model=http://host:8000/v1; remove it")
        if self.template is not None:
            from saccade.tasks import TEMPLATES

            if self.template not in TEMPLATES:
                raise ValueError(f"unknown template {self.template!r}; expected one of {', '.join(TEMPLATES)}")
        if self.also_greedy and self.decoding.greedy:
            raise ValueError("also_greedy: decoding is greedy already; remove it, or set decoding.greedy to false")
        if self.retries_until_parsed > 1 and (self.decoding.greedy or self.also_greedy):
            raise ValueError("retries give the same reply again with greedy decoding; set decoding.greedy to false")
        return self
