"""`saccade resume`: resume an interrupted run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from saccade.cli.options import load_recipe
from saccade.cli.runs import print_result
from saccade.config import kind


def _rl(config: Any, folder: Path) -> None:
    from saccade.training.rl import train

    print_result(train(config, folder, resume=True))


def _sft(config: Any, folder: Path) -> None:
    from saccade.training.sft import train

    print_result(train(config, folder, resume=True))


RESUMES: dict[str, Callable[[Any, Path], None]] = {"rl": _rl, "sft": _sft}
"""By the key `kind` of a run's config.yaml; `eval` and `world pretrain` resume when they are run again."""


def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A directory that 'rl' or 'sft' wrote.")],
) -> None:
    """Resume an interrupted run from its last checkpoint, with its own configuration."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{folder} holds no run to resume: expected config.yaml there")
    name = kind(path)
    if name not in RESUMES:
        again = "; to resume it, run the same command again" if name in ("eval", "pretrain") else ""
        raise ValueError(f"{path}: kind is {name!r}, expected one of {', '.join(RESUMES)}{again}")
    RESUMES[name](load_recipe(str(path)), folder)
