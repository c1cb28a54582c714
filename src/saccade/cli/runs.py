"""Shared by the verbs that train: where a run is written and what is printed when it ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any

from saccade.cli.terminal import echo, process_of
from saccade.runs.files import rows_of
from saccade.runs.stopping import Stop


def run_dir(out: Path | None, recipe: str) -> Path:
    """`out`, or `runs/<name of the recipe>`."""
    return out if out is not None else Path("runs") / Path(recipe).stem


def restarted(folder: Path) -> bool:
    """Whether torchrun or SLURM started this process again and the run exists, so that it must resume."""
    counts = (os.environ.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return any(count not in ("", "0") for count in counts) and (folder / "config.yaml").is_file()


def where_to_resume(folder: Path) -> Any:
    """After the last checkpoint, or at the start when the job was lost before the first."""
    from saccade.training.resuming import START, Resume

    return Resume() if any((folder / "checkpoints").glob("step-*")) else Resume(START)


def run_and_print(train: Callable[..., Any], config: Any, folder: Path, **options: Any) -> None:
    """Trains until the end or until a signal stops it, and prints the result. A job that was started again resumes."""
    if restarted(folder):
        options = {"resume": where_to_resume(folder)} | options
    with Stop().listening() as stop:
        result = train(config, folder, **options, stop=stop)
    print_result(result)


def print_result(result: Any) -> None:
    """Prints a `saccade.training.loop.RunResult`, and the steps without an update; one of several processes does."""
    if process_of()[0]:
        return
    echo(f"{result.directory}: {result.step} steps done")
    if result.best_step == 0:
        echo(f"best: the starting model, score {result.best_score:.4g}; no checkpoint was better")
    elif result.best_step is not None:
        echo(f"best: step {result.best_step}, score {result.best_score:.4g} (checkpoints/best)")
    steps, idle = steps_without_update(result.directory / "metrics.jsonl")
    if idle:
        why = "equal rewards within every group, or a gradient that is not finite"
        echo(f"no update in {len(idle)} of {steps} steps: {', '.join(map(str, idle))} ({why})")
    echo(f"report: saccade report {quote(str(result.directory))}")
    if result.stopped is not None:
        echo(result.stopped)


def steps_without_update(metrics: Path) -> tuple[int, list[int]]:
    """(number of steps, those without an update), from a run's metrics; damaged rows do not count."""
    made = [row for row in rows_of(metrics, []) if "update/skipped" in row and isinstance(row.get("step"), int)]
    return len(made), [row["step"] for row in made if row["update/skipped"]]
