"""Converts any readable format to Saccade's own storage, atomically."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from saccade.data.records import kind_of
from saccade.data.sources import DataConfig, items, record_roots
from saccade.data.storage import Keep, Kind, SampleWriter
from saccade.disk import partial_folder, writing
from saccade.faults import Faults

SUMMARY = "summary.json"
SKIPPED = "skipped.jsonl"
SHOWN = 20


@dataclass
class ConversionSummary:
    """Counts of written and skipped rows."""

    rows: int = 0
    skipped: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Kind of fault -> skipped rows."""
    tasks: dict[str, int] = field(default_factory=dict)
    images: int = 0
    """Images over all rows; an image shared by many rows counts in each."""
    format: str = ""
    kept: str = ""
    first: list[str] = field(default_factory=list)
    """The first faults of skipped rows, each with its count and a few places; all rows are in skipped.jsonl."""


def convert(
    entries: Iterable[DataConfig],
    out: Path,
    kind: Kind = "parquet",
    keep: Keep = "as_is",
    strict: bool = False,
    progress: Callable[[], None] | None = None,
) -> ConversionSummary:
    """Writes the samples of `entries` into the new folder `out`: the rows, images/ if needed, summary.json and
    skipped.jsonl.

    The folder is written atomically. ValueError for a folder that is not empty, a full disk, no usable row and, with
    `strict`, for the first invalid row. `progress` is called after each row.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; use a new one or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_folder(out)
    with writing(out.absolute().parent, f"{out} was not written; free some space, or keep images by path"):
        try:
            summary = _write(list(entries), partial, kind, keep, strict, progress)
            partial.replace(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return summary


def _write(
    entries: list[DataConfig],
    folder: Path,
    kind: Kind,
    keep: Keep,
    strict: bool,
    progress: Callable[[], None] | None,
) -> ConversionSummary:
    sources = ", ".join(dict.fromkeys(entry.source for entry in entries))
    summary, tasks, reasons = ConversionSummary(format=sources, kept=keep), Counter[str](), Counter[str]()
    by_path, faults = False, Faults(SHOWN)
    with SampleWriter(folder, kind, keep) as writer, (folder / SKIPPED).open("w", encoding="utf-8") as skipped:
        for entry in entries:
            for place, found in items(entry):
                try:
                    if isinstance(found, ValueError):
                        raise found
                    writer.write(found)
                except ValueError as error:
                    if strict:
                        raise ValueError(f"{place}: {error}") from error
                    reasons[kind_of(error)] += 1
                    faults.add(place, str(error))
                    row = {"file": str(entry.path), "place": place, "kind": kind_of(error), "reason": str(error)}
                    skipped.write(json.dumps(row) + "\n")
                else:
                    tasks[found.task] += 1
                    by_path = by_path or any(isinstance(image, str) for image in found.images)
                    summary.images += len(found.images)
                if progress is not None:
                    progress()
    summary.rows, summary.skipped = sum(tasks.values()), sum(reasons.values())
    summary.tasks, summary.reasons, summary.first = dict(tasks), dict(reasons), [str(fault) for fault in faults]
    if not summary.rows:
        first = f", the first: {summary.first[0]}" if summary.first else ""
        raise ValueError(f"{entries[0].path}: no usable row ({summary.skipped} skipped{first})")
    if by_path and keep in ("as_is", "path"):
        record_roots(folder, entries)
    (folder / SUMMARY).write_text(json.dumps(asdict(summary), indent=1) + "\n", encoding="utf-8")
    if not summary.skipped:
        (folder / SKIPPED).unlink()
    return summary
