"""The recipes of evaluation; nothing here imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from saccade.config import Config
from saccade.data import DataConfig
from saccade.evaluation.benchmarks import BENCHMARKS
from saccade.models.config import ModelConfig
from saccade.rollout.config import Sampling
from saccade.tasks import TEMPLATES
from saccade.types import FrameName


class Decoding(Config):
    """How replies are drawn."""

    name: Literal["greedy", "sampled"] = "greedy"
    k: int = Field(default=1, ge=1)
    """Replies per item; more than one only makes sense for `sampled`."""
    max_new_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    """Of `sampled`; top_p and top_k too."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    seed: int = 0
    batch_size: int = Field(default=32, ge=1)
    """Items per call of the engine. Part of the result when sampling: each batch has its own seed."""
    template: str | None = None
    """Wording of the prompt, a name of `saccade.tasks.templates.TEMPLATES`; each task's own when null."""
    forced_prefix: str = ""
    """Beginning of every reply, such as '<think>scan': all models forced to one habit. Graded and counted with the
    reply."""

    @model_validator(mode="after")
    def _greedy_answers_once(self) -> Decoding:
        if self.name == "greedy" and self.k > 1:
            raise ValueError(
                f"k is {self.k} with greedy decoding, where all attempts are equal; use decoding: sampled or k: 1"
            )
        return self

    def sampling(self) -> Sampling:
        return Sampling(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            greedy=self.name == "greedy",
        )


class WorldBenchmark(Config):
    """Held-out questions of the visual world."""

    splits: tuple[str, ...] = Field(("test",), min_length=1)
    tasks: tuple[str, ...] = Field(("count",), min_length=1)
    n: int = Field(default=300, ge=1)
    """Questions per split and task."""
    seed: int = 0
    """Of the benchmark, in a name space of its own; runs that are compared must share it."""


class EvalRecipe(Config):
    """Which model answers which questions, and how."""

    kind: Literal["eval"] = "eval"
    model: ModelConfig
    label: str = "model"
    """Column `model` of the results."""
    control: str | None = None
    """Column `control`: the name of the control that this run is, if it is one."""
    data: tuple[DataConfig, ...] = ()
    world: WorldBenchmark | None = None
    n: int | None = Field(default=None, ge=1)
    """Items taken from each of `data`, the first ones; all when null."""
    decoding: tuple[Literal["greedy", "sampled"], ...] = Field(default=("greedy", "sampled"), min_length=1)
    k: int = Field(default=1, ge=1)
    """Replies per item when sampling."""
    max_new_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    seed: int = 0
    batch_size: int = Field(default=32, ge=1)
    template: str | None = None
    forced_prefix: str = ""
    images: int = Field(default=24, ge=0)
    """Items whose images are kept for the report, evenly from all splits and tasks."""
    out: str

    @model_validator(mode="after")
    def _has_questions_and_uses_k(self) -> EvalRecipe:
        if not self.data and self.world is None:
            raise ValueError("there is nothing to evaluate; give `data` (a list of data sets) or `world` (a suite)")
        if self.k > 1 and "sampled" not in self.decoding:
            raise ValueError(
                f"k is {self.k} but only greedy decoding is asked for; add 'sampled' to `decoding` or set k: 1"
            )
        return self

    def decodings(self) -> list[Decoding]:
        shared = self.model_dump(
            include={
                "max_new_tokens",
                "temperature",
                "top_p",
                "top_k",
                "seed",
                "batch_size",
                "template",
                "forced_prefix",
            }
        )
        return [Decoding(name=name, k=self.k if name == "sampled" else 1, **shared) for name in self.decoding]


class BenchmarkRecipe(Config):
    """One benchmark, one model, one way to ask and to grade."""

    kind: Literal["benchmark"] = "benchmark"
    benchmark: str
    model: str
    """A checkpoint directory, a hub name, 'base', or the address of an OpenAI-compatible server."""
    served_name: str | None = None
    """What the server calls the model; required with an address."""
    label: str = "model"
    data: Path | None = None
    images: Path | None = None
    """What image names are relative to."""
    format: str | None = None
    """`jsonl` only: the reader."""
    subset: str | None = None
    mode: str | None = None
    prompt: str | None = None
    limit: int | None = Field(default=None, ge=1)
    """So many items, drawn once and for all; whole groups where items depend on each other."""
    decoding: Decoding = Decoding()
    retries_until_parsed: int = Field(default=1, ge=1)
    """Attempts in all until a reply holds `</answer>`, as Vision-R1's evaluation did in silence with 5."""
    frame: FrameName | None = None
    """What box numbers of a served model mean."""
    resize: tuple[int, int, int] = (28, 56 * 56, 12_845_056)
    """Factor, least and most pixels of the server's processor, for frame pixels_resized."""
    judge: str | None = None
    """Address of the judge's server."""
    judge_model: str | None = None
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    device: str = "auto"
    kept_images: int = Field(default=24, ge=0)
    """Items whose images are kept for the report."""
    out: str

    @property
    def served(self) -> bool:
        return self.model.startswith(("http://", "https://"))

    @model_validator(mode="after")
    def _fits(self) -> BenchmarkRecipe:
        if self.benchmark not in BENCHMARKS:
            raise ValueError(f"there is no benchmark {self.benchmark!r}; expected one of {', '.join(BENCHMARKS)}")
        benchmark = BENCHMARKS[self.benchmark]
        benchmark.mode(self.mode)
        benchmark.prompt(self.prompt)
        benchmark.subset(self.subset)
        if self.served and not self.served_name:
            raise ValueError("a model at an address needs --served-name, the name under which the server knows it")
        if self.judge is not None and not benchmark.mode(self.mode).judge:
            raise ValueError(f"mode '{benchmark.mode(self.mode).name}' of {self.benchmark} asks no judge; drop --judge")
        if (self.judge is None) != (self.judge_model is None):
            raise ValueError("a judge needs both --judge (its address) and --judge-model (its name there)")
        if self.retries_until_parsed > 1 and self.decoding.name == "greedy":
            raise ValueError("retries give the same reply again with greedy decoding; use --decoding sampled")
        if self.decoding.template is not None and self.decoding.template not in TEMPLATES:
            raise ValueError(f"unknown template {self.decoding.template!r}; expected one of {', '.join(TEMPLATES)}")
        if not self.served and self.frame is not None:
            raise ValueError("a local model's frame is its family's; --frame is for a model at an address")
        if self.format is not None and self.benchmark != "jsonl":
            raise ValueError(f"--format means nothing to benchmark '{self.benchmark}'; leave it out")
        return self
