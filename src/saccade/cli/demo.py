"""`saccade demo`: from nothing to a trained, evaluated tiny reasoning model with its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Where the demo's runs and its report go.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn, except the held-out questions.")] = 0,
    recipe: Annotated[str, typer.Option(help="A demo recipe: a path or the name of a packaged one.")] = "demo",
    override: Annotated[list[str] | None, typer.Argument(help="Dotted overrides such as n=300.")] = None,
) -> None:
    """Cold start, SFT and GRPO in two stages on the visual world, with honest controls and an HTML report."""
    from rich.console import Console

    from saccade.config import load
    from saccade.report import build_report
    from saccade.studies.demo import DemoRecipe, run_demo

    console = Console()
    folder = run_demo(load(recipe, DemoRecipe, override or []), out, seed, console)
    page = build_report(folder)
    from saccade.studies.demo_summary import summary

    console.print(summary(folder))
    console.print(f"report: {page}")
