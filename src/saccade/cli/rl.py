"""`saccade rl`: reinforcement learning on groups."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli.options import Out, Overrides, PrintConfig, Recipe, resolve
from saccade.cli.runs import run_and_print, run_dir
from saccade.cli.terminal import echo_whole
from saccade.config import dump

if TYPE_CHECKING:
    from saccade.training.config import RLRecipe

OWN = "own"
"""Name of the rubric made by `--reward`."""


def rl(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Out = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            help="Your own reward, def f(completion, sample) -> float, instead of the recipe's rubrics; repeat it "
            "to add up several.",
        ),
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Time limit of --reward for one reply; default: 30.")
    ] = None,
    print_config: PrintConfig = False,
) -> None:
    """Train by reinforcement learning (GRPO and related methods) as the recipe specifies; writes a run directory."""
    from saccade.training.config import RLRecipe

    config = resolve(recipe, RLRecipe, overrides)
    if deadline is not None and not reward:
        raise ValueError("--deadline requires --reward; give --reward too, or remove --deadline")
    if reward:
        config = with_rewards(config, reward, deadline)
    if print_config:
        echo_whole(dump(config), nl=False)
        raise typer.Exit
    from saccade.data.hub import refuse_unreachable

    refuse_unreachable(config.model.path)
    from saccade.training.rl import train  # imports torch, which an invalid recipe should not have to wait for

    run_and_print(train, config, run_dir(out, recipe))


def with_rewards(config: RLRecipe, rewards: list[str], deadline: float | None) -> RLRecipe:
    """The recipe with a rubric of the user's own rewards in every stage. Paths become absolute, so that the run can be
    resumed from another folder. ValueError for anything but FILE.py:FUNCTION."""
    parts: list[dict[str, Any]] = []
    for name in rewards:
        path, _, function = name.rpartition(":")
        if not path.endswith(".py") or not function:
            raise ValueError(f"--reward {name}: expected FILE.py:FUNCTION, such as rewards.py:short_thought")
        part = {"name": f"{Path(path).expanduser().resolve()}:{function}"}
        parts.append(part if deadline is None else part | {"deadline_s": deadline})
    content = config.model_dump(exclude_unset=True)
    content["rubrics"] = {OWN: {"parts": parts}}
    content["stages"] = [{**stage, "rubric": OWN} for stage in content["stages"]]
    return type(config).model_validate(content)
