"""`saccade demo`: from nothing to a trained, evaluated tiny reasoning model with its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from saccade.cli.options import AsJson, Overrides, PrintConfig, resolve
from saccade.cli.terminal import echo_json
from saccade.runs.stopping import interruptible


def demo(
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where runs and report are written.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of everything random except the held-out questions.")] = 0,
    recipe: Annotated[str, typer.Option(help="A YAML file, or the name of a packaged recipe.")] = "demo",
    as_json: AsJson = False,
    print_config: PrintConfig = False,
) -> None:
    """Cold start, SFT and GRPO in two stages on the visual world, with controls and an HTML report."""
    from saccade.studies.demo_recipe import DemoRecipe

    config = resolve(recipe, DemoRecipe, overrides, print_config)
    from saccade.report import build_report
    from saccade.runs.safe_console import SafeConsole
    from saccade.studies.demo import run_demo
    from saccade.studies.demo_summary import summary

    console = SafeConsole(stderr=as_json)
    with interruptible(f"stopped; finished jobs are kept in {out}; continue with the same command"):
        folder = run_demo(config, out, seed, console)
    page = build_report(folder)
    if as_json:
        echo_json({name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("results", "demo")})
        return
    console.print(summary(folder))
    console.print(f"report: {page}", soft_wrap=True)
