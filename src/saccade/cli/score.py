"""`saccade score`: saved rollouts scored again with other rewards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli.options import AsJson, refuse_run_file
from saccade.cli.terminal import echo, echo_json

if TYPE_CHECKING:
    from saccade.rewards import Rubric
    from saccade.runs.rescore import RescoreComparison


def score(
    rollouts: Annotated[
        Path, typer.Argument(metavar="ROLLOUTS.jsonl", help="rollouts.jsonl of a run, or the run's directory.")
    ],
    rubric: Annotated[
        str,
        typer.Option(
            metavar="R",
            help="A YAML file with the keys of a rubric (parts, truncated); a rubric of the run's own recipe or of its "
            "tasks by name (default, hard, format_and_accuracy); or the name of one reward.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a row per rollout with both scores (JSONL).")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Number of rollouts with the largest changes to list.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Score saved rollouts again without a model; report what changed and which replies disagree."""
    from saccade.disk import AGAIN, atomic_file, sweep_beside, writing
    from saccade.runs.rescore import rescore

    refuse_run_file("--out", out)
    folder = rollouts if rollouts.is_dir() else rollouts.parent
    rubric_of = rubrics(rubric, folder)
    if out is None:
        found = rescore(rollouts, rubric_of, show)
    else:
        sweep_beside(out)
        with writing(out.absolute().parent, AGAIN), atomic_file(out) as file:
            found = rescore(rollouts, rubric_of, show, file)
    if as_json:
        echo_json(found.as_dict() | {"rubric": rubric})
        return
    for line in lines(found, rubric):
        echo(line)
    if out is not None:
        echo(f"rows: {out}")


def rubrics(name: str, folder: Path) -> Callable[[str], Rubric]:
    """Task -> rubric: of a file, of the run's recipe, of the task, or of one reward. ValueError for none of these."""
    from saccade.rewards import PartConfig, RubricConfig
    from saccade.rewards.naming import is_file
    from saccade.tasks import TASKS

    fixed: RubricConfig | None = None
    if name.endswith((".yaml", ".yml")):
        from saccade.config import load

        fixed = load(name, RubricConfig)
    elif (own := _recipe_rubrics(folder).get(name)) is not None:
        fixed = RubricConfig.model_validate(own)
    elif not any(name in task.rubrics for task in TASKS.values()):
        try:
            fixed = RubricConfig(parts=(PartConfig(name=name),), truncated="as_is")
        except ValueError as error:
            known = ["default", "hard", "format_and_accuracy", *_recipe_rubrics(folder)]
            why = f"unknown rubric '{name}'; expected a YAML file, one of {', '.join(known)}, or a reward"
            raise ValueError(str(error) if is_file(name) else why) from None
    built: dict[str, Rubric] = {"": fixed.build()} if fixed is not None else {}

    def rubric_of(task: str) -> Rubric:
        if fixed is not None:
            return built[""]
        if task not in TASKS:
            raise ValueError(f"got task {task!r}; expected one of {', '.join(TASKS)}")
        if task not in built:
            built[task] = TASKS[task].rubric(name)
        return built[task]

    return rubric_of


def _recipe_rubrics(folder: Path) -> dict[str, Any]:
    """The rubrics of the run's own recipe."""
    from saccade.runs.files import read_config

    found = read_config(folder, [])[0].get("rubrics")
    return found if isinstance(found, dict) else {}


def lines(found: RescoreComparison, rubric: str) -> list[str]:
    """The printed lines."""

    def mean(value: float | None) -> str:
        return "     -" if value is None else f"{value:6.3f}"

    shown = [
        f"{found.rollouts} rollouts in {found.groups} groups, scored again with {rubric}",
        f"{'':28} {'was':>6} {'now':>6} changed",
    ]
    shown += [
        f"{name[-28:]:28} {mean(tally.mean(tally.was))} {mean(tally.mean(tally.now))} {tally.changed:7}"
        for name, tally in found.tallies.items()
    ]
    shown.append(f"masked rollouts: {found.masked[0]} before, {found.masked[1]} now")
    shown.append(f"groups with equal rewards: {found.zero_variance[0]} before, {found.zero_variance[1]} now")
    shown.append(f"sibling pairs in reversed order: {found.reordered} of {found.pairs} that both scores distinguish")
    if found.largest_changes:
        shown.append("rollouts that disagree most:")
    for one in found.largest_changes:
        row, why = one.row, one.score.masked or one.score.reason or ""
        place = (
            f"step {row.get('step')}, group {row['group_id']}, reply {row.get('index')}, sample {row.get('sample_id')}"
        )
        shown.append(f"  {place}: was {mean(one.was).strip()}, now {mean(one.now).strip()}{f' ({why})' if why else ''}")
    return shown
