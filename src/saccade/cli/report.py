"""`saccade report`: the HTML page of a run, of several, or of one that is still training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli.options import refuse_run_file
from saccade.cli.terminal import echo


def report(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_DIR...", help="A run, a demo or a cold start; several runs are compared."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write it; default: RUN_DIR/report.html.")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the page on this machine and keep it up to date; ends with Ctrl-C.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --serve; 0 takes any free one.")] = 8765,
) -> None:
    """Write one self-contained HTML page about a run: results, curves, groups, held-out questions."""
    from saccade.report import build_report
    from saccade.report.coldstart_page import build_page

    refuse_run_file("--out", out)
    first, *others = run_dirs
    drafts = [folder for folder in run_dirs if (folder / "drafts.jsonl").is_file()]
    if serve:
        if out is not None or drafts:
            what = f"--out {out}" if out is not None else f"the cold start {drafts[0]}"
            raise ValueError(f"--serve shows runs and writes no file; got {what}: leave out one of them")
        from saccade.report.live import serve as serve_pages

        serve_pages(run_dirs, port, echo)
        return
    if drafts and others:
        raise ValueError(f"{drafts[0]} is a cold start, which cannot be compared; give it alone")
    echo(str(build_page(first, out) if drafts else build_report(first, out, *others)))
