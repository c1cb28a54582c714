"""The demo: cold start, SFT and GRPO in two PTST stages on the visual world, with controls.

Every part is an ordinary run (SFT, RL or evaluation) of the ordinary code paths, in its own process and with its own
run directory. The comparison is fixed before training: the recipe sets the held-out questions, the decodings and the
controls.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from saccade.config import dump
from saccade.disk import read_text, write_text, writing
from saccade.models.policy import resolve_path
from saccade.runs.lock import locked, refuse_other_kind
from saccade.studies import demo_jobs
from saccade.studies.demo_recipe import DemoRecipe
from saccade.studies.demo_results import write_demo
from saccade.studies.demo_summary import part_summary
from saccade.studies.jobs import StudyJob, run_all


def run_demo(recipe: DemoRecipe, out: Path, seed: int, console: Console) -> Path:
    """Run or resume a demo; returns the directory with results.json, demo.json and samples.json.

    ValueError before any work when the base is missing or `out` contains a demo of another recipe or seed.
    """
    resolve_path(recipe.base)
    refuse_other_kind(out, recipe.kind)
    with writing(out, "finished jobs are kept; free some space and run the same command again"), locked(out) as lock:
        _reserve_directory(recipe, out, seed)
        started = time.monotonic()
        results = run_all(plan(recipe, out, seed), recipe.parallel, console, part_summary, lock.keep)
        write_demo(recipe, out, seed, results, time.monotonic() - started)
    return out


def _reserve_directory(recipe: DemoRecipe, out: Path, seed: int) -> None:
    text = f"# seed: {seed}\n{dump(recipe)}"
    config = out / "config.yaml"
    if config.exists() and read_text(config) != text:
        raise ValueError(f"{out} contains a demo with another recipe or seed; choose another --out, or remove it")
    write_text(config, text)


def plan(recipe: DemoRecipe, out: Path, seed: int) -> list[StudyJob]:
    """All jobs with their dependencies, in order of priority."""
    shared: dict[str, Any] = {"recipe": recipe, "out": out, "seed": seed}
    first, second = recipe.stage_ends

    def job(name: str, run: Any, needs: tuple[str, ...], total: int, **arguments: Any) -> StudyJob:
        return StudyJob(name, run, out / name, {**shared, **arguments}, needs, total)

    def evaluation(model: str, control: str | None, needs: tuple[str, ...]) -> StudyJob:
        total = 3 * recipe.n * sum(len(demo_jobs.tasks_of(recipe, split)) for split in recipe.splits)
        arguments, directory = {**shared, "model": model, "control": control}, out / "eval" / model
        return StudyJob(f"eval/{model}", demo_jobs.evaluate, directory, arguments, needs, total, "items.jsonl")

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
