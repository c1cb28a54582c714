"""`saccade study`: a claim of the papers as an experiment with a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli.options import AsJson, Overrides, PrintConfig, variables
from saccade.cli.terminal import echo, echo_json, echo_whole
from saccade.config import dump, packaged
from saccade.runs.stopping import interruptible


def study(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A packaged study (see --list), or a YAML file.")
    ] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Output directory; default: runs/studies/NAME."),
    ] = None,
    development: Annotated[
        bool,
        typer.Option("--development", help="Run on the development seeds, for tuning; never the recorded verdict."),
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the packaged studies with their cost.")] = False,
    print_config: PrintConfig = False,
    as_json: AsJson = False,
) -> None:
    """Run or resume a study: its arms on every seed, the held-out evaluations, the verdict and its page."""
    from saccade.studies.study_recipe import FOLDER, load_study

    if listed:
        studies = {key.removeprefix(FOLDER): load_study(key) for key in packaged() if key.startswith(FOLDER)}
        minutes = {key: round(one.cpu_minutes_per_seed * len(one.seeds)) for key, one in studies.items()}
        if as_json:
            rows = [{"name": key, "title": one.title, "cpu_minutes": minutes[key]} for key, one in studies.items()]
            echo_json({"studies": rows})
            return
        for key, one in studies.items():
            echo(f"{key:<20} {one.title} (about {minutes[key]} CPU minutes)")
        return
    if name is None:
        raise ValueError("no study given; name one from `saccade study --list`, or a YAML file")
    short = Path(name).stem
    config = load_study(name, overrides or ())
    if print_config:
        echo_whole(dump(config), nl=False)
        raise typer.Exit
    seeds = config.development_seeds if development else config.seeds
    cost = config.cpu_minutes_per_seed * len(seeds)
    from saccade.report import build_report
    from saccade.report.study_page import study_text
    from saccade.runs.safe_console import SafeConsole
    from saccade.studies.study import run_study

    folder = out or Path("runs/studies") / (f"{short}-development" if development else short)
    console = SafeConsole(stderr=as_json)
    console.print(
        f"{short}: {len(seeds)} seeds, about {cost:.0f} CPU minutes, {cost / config.parallel:.0f} minutes with "
        f"{config.parallel} process{'es' if config.parallel > 1 else ''}; finished parts in {folder} are kept",
        highlight=False,
        markup=False,
    )
    with interruptible(f"stopped; finished jobs are kept in {folder}; continue with the same command"):
        document = run_study(config, folder, seeds, console, variables()["SACCADE_DATA"])
    page = build_report(folder)
    if as_json:
        echo_json(document)
        return
    console.print(study_text(document), markup=False, highlight=False)
    console.print(f"page: {page}", soft_wrap=True, markup=False, highlight=False)
