"""`saccade export`: a run's model as an ordinary checkpoint directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run's directory or one checkpoint of it.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The new directory.")],
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Of the weights; default: the recipe's.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Also upload it to the Hugging Face hub, as private.")
    ] = None,
) -> None:
    """Merge adapters and write an ordinary checkpoint directory with a model card, checked by loading it again."""
    from saccade.export.source import find_source

    found = find_source(source)
    from transformers.utils import logging as transformers_logging

    from saccade.export import export as exporting

    transformers_logging.disable_progress_bar()
    if push is not None:
        exporting.check_push(push)
    done = exporting.export(found, out, dtype)
    step = "" if found.step is None else f", step {found.step}"
    typer.echo(f"{out}: {found.checkpoint}{step}, in {done.dtype}")
    typer.echo(f"logits differ from the trained policy's by {done.difference:.1e} (relative, bound {done.bound:g})")
    if done.to_quantized is not None:
        typer.echo(f"and from those of the policy on 4-bit weights by {done.to_quantized:.1e}")
    if push is not None:
        typer.echo(f"pushed: {exporting.push(out, push)}")
