"""`saccade convert`: data in any format that Saccade reads becomes its own storage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from saccade.cli.options import ColumnNames, DataRoot, columns_of
from saccade.cli.terminal import echo

if TYPE_CHECKING:
    from saccade.data import DataConfig
    from saccade.data.convert import ConversionSummary


def convert(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders or patterns.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that does not exist yet.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FORMAT", help="See docs/data.md; found from the rows of the first INPUT if absent."
        ),
    ] = None,
    kind: Annotated[Literal["parquet", "jsonl"], typer.Option("--to", help="File format of the rows.")] = "parquet",
    images: Annotated[
        Literal["as_is", "path", "bytes", "hash"],
        typer.Option(help="Unchanged, by absolute path, as bytes in the rows, or copied once under their hash."),
    ] = "as_is",
    image_folders: Annotated[
        list[Path] | None,
        typer.Option("--image-folder", metavar="DIR", help="Folder of relative image names; one, or one per INPUT."),
    ] = None,
    data_root: DataRoot = None,
    column: ColumnNames = None,
    task: Annotated[str | None, typer.Option(help="Task of rows without one.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a Hugging Face data set.")] = None,
    hub: Annotated[
        bool, typer.Option("--hub", help="INPUT is the name of a data set on the Hugging Face hub.")
    ] = False,
    negatives: Annotated[
        int | None, typer.Option(min=0, help="COCO: the most absent labels requested per image.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="COCO: seed of the absent labels.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first samples of each input.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first invalid row.")] = False,
) -> None:
    """Write data as Parquet or JSONL with its images; the folder is written completely or not at all."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from saccade.data.convert import convert as write
    from saccade.data.files import count_rows
    from saccade.runs.safe_console import SafeConsole

    keys: dict[str, Any] = {"data_root": data_root, "task": task, "split": split}
    keys |= {"negatives": negatives, "seed": seed, "limit": limit}
    keys = {name: value for name, value in keys.items() if value is not None}
    if column:
        keys["columns"] = columns_of(column)
    if source is None:
        source, keys = found_in(inputs[0], hub, keys)
    entries = configs(inputs, source, image_folders or [], hub, keys)
    counts = [None if entry.path is None else count_rows(entry.path) for entry in entries]
    total = None if None in counts else sum(count or 0 for count in counts)
    columns = (
        SpinnerColumn(),
        *Progress.get_default_columns(),
        TextColumn("{task.completed} rows"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=SafeConsole(stderr=True), transient=True) as bars:
        bar = bars.add_task(source, total=total)
        summary = write(entries, out, kind, images, strict, lambda: bars.advance(bar))
    show(summary, out)


def found_in(data: str, hub: bool, keys: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The format of a file or folder, and `keys` with the columns and the split that it needs."""
    from saccade.data import READERS
    from saccade.data.guess import guess

    if hub or any(mark in data for mark in "*?["):
        raise ValueError(f"{data}: give its format with --from, one of {', '.join(READERS)}")
    guessed = guess(Path(data))
    found = guessed.config
    echo(f"{data}: {guessed}")
    more = {"columns": found.columns} if found.columns else {}
    return found.source, more | ({"split": found.split} if found.split else {}) | keys


def configs(inputs: list[str], source: str, folders: list[Path], hub: bool, keys: dict[str, Any]) -> list[DataConfig]:
    """An entry for each input. ValueError for options that do not fit."""
    from pydantic import ValidationError

    from saccade.config import said
    from saccade.data import DataConfig

    if len(folders) not in (0, 1, len(inputs)):
        raise ValueError(
            f"got {len(folders)} --image-folder and {len(inputs)} inputs; expected none, one, or one per input"
        )
    each = folders * len(inputs) if len(folders) == 1 else folders or [None] * len(inputs)
    try:
        return [
            DataConfig(source=source, image_folder=folder, **({"hub": name} if hub else {"path": name}), **keys)
            for name, folder in zip(inputs, each, strict=True)
        ]
    except ValidationError as error:
        raise ValueError(f"--from {source}: {said(error)}") from None


def show(summary: ConversionSummary, out: Path) -> None:
    """Prints what was written; skipped rows go to stderr."""
    tasks = ", ".join(f"{name} {count:,}" for name, count in summary.tasks.items())
    echo(f"{out}: {summary.rows:,} rows ({tasks}), {summary.images:,} images {summary.kept}")
    if summary.skipped:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in summary.reasons.items())
        echo(f"skipped {summary.skipped:,} rows ({kinds}); all are in {out}/skipped.jsonl:", err=True)
        for line in summary.first:
            echo(f"  {line}", err=True)
