"""`saccade resume`: resume an interrupted run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from saccade.cli.options import load_recipe
from saccade.cli.runs import run_and_print
from saccade.cli.vllm_servers import check_servers
from saccade.config import kind


def _rl() -> Callable[..., Any]:
    from saccade.training.rl import train

    return train


def _sft() -> Callable[..., Any]:
    from saccade.training.sft import train

    return train


RESUMES: dict[str, Callable[[], Callable[..., Any]]] = {"rl": _rl, "sft": _sft}
"""What trains, by the key `kind` of a run's config.yaml; `eval` and `world pretrain` resume when they are run again."""


def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A directory that 'rl' or 'sft' wrote.")],
    where: Annotated[
        str | None,
        typer.Option("--from", metavar="step-N|start", help="Not the newest whole checkpoint but this one, or anew."),
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option(help="Resume although data, base model or recipe changed since the checkpoint.")
    ] = False,
) -> None:
    """Resume an interrupted run from its newest whole checkpoint, with its own configuration (DIR/config.yaml)."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{folder} holds no run to resume: expected config.yaml there")
    name = kind(path)
    if name not in RESUMES:
        again = "; to resume it, run the same command again" if name in ("eval", "pretrain") else ""
        raise ValueError(f"{path}: kind is {name!r}, expected one of {', '.join(RESUMES)}{again}")
    config = load_recipe(str(path))
    from saccade.training.config import RLRecipe

    if isinstance(config, RLRecipe) and config.rollout.engine.kind == "vllm_server":
        check_servers(folder, config.rollout.engine.urls)
    train = RESUMES[name]()
    from saccade.training.resuming import Resume

    run_and_print(train, config, folder, resume=Resume(where, accept_changes))
