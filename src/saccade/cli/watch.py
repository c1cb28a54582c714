"""`saccade watch`: a run in the terminal, live."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from saccade.cli.options import AsJson
from saccade.cli.terminal import echo_json, printable


def watch(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run, or a demo, whose newest run is shown.")],
    every: Annotated[float, typer.Option(min=0.2, metavar="SECONDS", help="Between two looks at the files.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show it once; so it is where there is no terminal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run's accuracy, rewards, speed, alarms and last reply; reads its files only, Ctrl-C ends the view."""
    from rich.live import Live

    from saccade.report.watch import Watched, facts, follow, latest_run, view
    from saccade.runs.safe_console import SafeConsole
    from saccade.runs.stopping import until_interrupted

    console = SafeConsole()
    colors = console.color_system in ("truecolor", "256")
    if once or as_json or not console.is_terminal:
        watched = Watched(latest_run(run_dir))
        watched.read()
        if as_json:
            echo_json(facts(watched))
            return
        console.print(view(watched, printable, colors))
        return
    live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
    with suppress(KeyboardInterrupt), until_interrupted(), live:
        follow(run_dir, lambda found: live.update(found, refresh=True), printable, colors, every)
