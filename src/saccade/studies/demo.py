"""The demo: cold start, SFT and GRPO in two PTST stages on the visual world, with the honest controls beside them.

Every part is an ordinary run (SFT, RL or evaluation) of the ordinary code paths, in a process of its own, and leaves an
ordinary run directory. What the parts are compared by is fixed before anything is trained: the held-out questions, the
decodings and the controls stand in the recipe.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from rich.console import Console

from saccade.algorithm import LossConfig, Stage
from saccade.config import Config, dump
from saccade.models.policy import resolve_path
from saccade.studies import demo_jobs
from saccade.studies.demo_results import write_demo
from saccade.studies.jobs import Job, run_all
from saccade.training.optim import OptimConfig
from saccade.training.sft import SFTOptimConfig
from saccade.world import HABITS


class DemoRecipe(Config):
    """`saccade demo`. Lengths are in tokens, budgets in steps; what depends on the machine's speed is only how long it takes."""

    kind: Literal["demo"] = "demo"
    base: str = "base"
    """The model to start from: the packaged tiny base, or a checkpoint directory of any supported family."""
    tasks: tuple[str, ...] = Field(("count", "arithmetic", "compare"), min_length=1)
    splits: tuple[str, ...] = Field(("test", "ood_larger"), min_length=1)
    n: int = Field(100, ge=10)
    """Held-out questions per split and task."""
    benchmark_seed: int = 1
    """Of the held-out questions; in a name space of its own, so that no training seed meets it."""
    max_new_tokens: int = Field(128, ge=8)
    """Cap of every evaluation."""
    habits: dict[str, float]
    """The cold-start set: relative weights of the ways to answer. All of them end in the true answer."""
    cold_start_rows: int = Field(ge=50)
    sft_steps: int = Field(ge=1)
    sft_prompts: int = Field(16, ge=1)
    """Examples per SFT step."""
    sft_optim: SFTOptimConfig
    rl_stages: tuple[Stage, Stage]
    """Progressive thinking suppression: a short cap with large groups, then a longer one with smaller groups."""
    rl_prompts: int = Field(12, ge=1)
    """Groups per RL step, unless a stage says otherwise."""
    rl_loss: LossConfig = LossConfig()
    rl_optim: OptimConfig
    forced: str = "<think>scan"
    """Beginning of the reply in the control in which every model answers by the same habit."""
    rejection_k: int = Field(8, ge=2)
    """Replies per prompt of the rejection-sampling control."""
    rejection_sampling_share: float = Field(0.4, gt=0, lt=1)
    """Share of that control's compute that goes into sampling; the rest trains."""
    parallel: int = Field(2, ge=1)
    """Processes at a time, one thread each."""

    @field_validator("habits")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        if unknown := set(value) - set(HABITS):
            raise ValueError(f"unknown habits {sorted(unknown)}; the world has {', '.join(HABITS)}")
        return value

    @field_validator("rl_stages")
    @classmethod
    def _both_end(cls, value: tuple[Stage, Stage]) -> tuple[Stage, Stage]:
        if any(stage.until is None or stage.until.step is None for stage in value):
            raise ValueError("both stages need 'until: {step: n}', so that the controls know the compute to match")
        return value

    @property
    def stage_ends(self) -> tuple[int, int]:
        first, second = (stage.until.step for stage in self.rl_stages if stage.until and stage.until.step)
        return first, second


def run_demo(recipe: DemoRecipe, out: Path, seed: int, console: Console) -> Path:
    """Run or go on with a demo; returns the directory, which then holds results.json, demo.json and samples.json.

    ValueError before any work when the base is missing or `out` holds a demo of another recipe or seed.
    """
    resolve_path(recipe.base)
    _claim(recipe, out, seed)
    began = time.monotonic()
    left = run_all(plan(recipe, out, seed), recipe.parallel, console)
    write_demo(recipe, out, seed, left, time.monotonic() - began)
    return out


def _claim(recipe: DemoRecipe, out: Path, seed: int) -> None:
    text = f"# seed: {seed}\n{dump(recipe)}"
    config = out / "config.yaml"
    if config.exists() and config.read_text(encoding="utf-8") != text:
        raise ValueError(f"{out} holds a demo with another recipe or seed; choose another --out, or remove that directory")
    out.mkdir(parents=True, exist_ok=True)
    config.write_text(text, encoding="utf-8")


def plan(recipe: DemoRecipe, out: Path, seed: int) -> list[Job]:
    """All jobs with what they need; the order is that in which they start when nothing else decides."""
    shared: dict[str, Any] = {"recipe": recipe, "out": out, "seed": seed}
    first, second = recipe.stage_ends

    def job(name: str, run: Any, needs: tuple[str, ...], total: int, **arguments: Any) -> Job:
        return Job(name, run, out / name, {**shared, **arguments}, needs, total)

    def evaluation(model: str, control: str | None, needs: tuple[str, ...]) -> Job:
        total = 3 * recipe.n * sum(len(demo_jobs.tasks_of(recipe, split)) for split in recipe.splits)
        arguments = {**shared, "model": model, "control": control}
        return Job(f"eval/{model}", demo_jobs.evaluate, out / "eval" / model, arguments, needs, total, "items.jsonl")

    return [
        job("coldstart", demo_jobs.cold_start, (), 1),
        evaluation("base", None, ()),
        job("sft", demo_jobs.sft, ("coldstart",), recipe.sft_steps),
        job("rl", demo_jobs.rl, ("sft",), second),
        evaluation("sft", None, ("sft",)),
        job("controls/more_sft", demo_jobs.more_sft, ("rl",), demo_jobs.matched_steps_guess(recipe)),
        job("controls/rejection", demo_jobs.rejection, ("rl",), demo_jobs.matched_steps_guess(recipe)),
        job("controls/short_cap", demo_jobs.short_cap, ("rl",), second - first),
        evaluation("rl", None, ("rl",)),
        evaluation("more_sft", "more SFT, equal compute", ("controls/more_sft",)),
        evaluation("rejection", "rejection-sampling SFT, equal compute", ("controls/rejection",)),
        evaluation("short_cap", "short cap throughout, equal tokens", ("controls/short_cap",)),
    ]


def compute(left: Mapping[str, Mapping[str, Any]], name: str) -> float:
    """CPU seconds of a job."""
    return float(left[name]["cpu_s"])
