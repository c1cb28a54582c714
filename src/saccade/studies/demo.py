"""The demo: cold start, SFT and GRPO in two PTST stages on the visual world, with the honest controls beside them.

Every part is an ordinary run (SFT, RL or evaluation) of the ordinary code paths, in a process of its own, and leaves an
ordinary run directory. What the parts are compared by is fixed before anything is trained: the held-out questions, the
decodings and the controls stand in the recipe.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from saccade.config import dump
from saccade.models.policy import resolve_path
from saccade.studies import demo_jobs
from saccade.studies.demo_recipe import DemoRecipe
from saccade.studies.demo_results import write_demo
from saccade.studies.jobs import Job, run_all


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
        raise ValueError(f"{out} holds a demo with another recipe or seed; choose another --out, or remove it")
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
