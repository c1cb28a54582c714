"""`saccade report`: the HTML page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli.terminal import echo


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The directory of a run, a demo or a cold start.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write it; default: RUN_DIR/report.html.")
    ] = None,
) -> None:
    """Write one self-contained HTML page about a run: results, curves, samples, rollouts."""
    from saccade.report import build_report
    from saccade.report.coldstart_page import build_page

    write = build_page if (run_dir / "drafts.jsonl").is_file() else build_report
    echo(str(write(run_dir, out)))
