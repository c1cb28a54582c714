"""Rows of benchmark files: tables that `saccade.data` reads, VLMEvalKit's TSV, folders with known names, the hub."""

from __future__ import annotations

import base64
import binascii
import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from saccade.data import records
from saccade.data.files import hub_rows, table_rows
from saccade.data.records import Placed, Reading, Row
from saccade.evaluation.benchmarks.benchmark import Place
from saccade.faults import LONGEST_REASON, cut, listed
from saccade.types import ImageSource

KINDS = (".jsonl", ".json", ".parquet", ".tsv")


class Table:
    """The rows at a place with what their images need."""

    def __init__(self, place: Place, file: Path | None, hub: str | None = None) -> None:
        self.file, self.hub = file, hub
        self.reading = place.reading(file or Path(hub or ""), hub=file is None)

    def images(self, value: Any) -> tuple[ImageSource, ...]:
        """As `records.images_of`, and images in base64 (TSV)."""
        if isinstance(value, str) and len(value) > 260:
            return (decoded(value),)
        return records.images_of(value, self.reading)


def find(place: Place, names: Sequence[str]) -> list[Path]:
    """The file that `place.data` is, or the files in the folder that match the first pattern with any. ValueError."""
    path = place.data
    if path is None:
        raise ValueError("no path; give the benchmark's file or folder as path=...")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path}: there is no such file or folder")
    if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return [path]
    for name in names:
        found = sorted(one for one in path.glob(name) if one.is_file())
        if found:
            return found
    raise ValueError(f"{path}: contains none of {', '.join(names)}; give the file itself, or that layout")


def rows_of(place: Place, names: Sequence[str], hub: tuple[str, str | None, str]) -> Iterator[tuple[Table, str, Row]]:
    """(table, place, row) of every row; `hub` is (name, configuration, split), read when there is no path.

    A row that cannot be read raises ValueError with its place: a benchmark without some of its rows is a different
    benchmark.
    """
    if place.data is None:
        table = Table(place, None, hub[0])
        yield from ((table, where, row) for where, row in _whole(hub_rows(*hub)))
        return
    for file in find(place, names):
        table = Table(place, file)
        yield from ((table, where, row) for where, row in _whole(file_rows(file, hub[2])))


def _whole(rows: Iterable[Placed]) -> Iterator[tuple[str, Row]]:
    for where, row in rows:
        if isinstance(row, ValueError):
            raise ValueError(f"{where}: {row}")
        yield where, row


def file_rows(file: Path, split: str) -> Iterator[Placed]:
    """Rows of one file, or of a folder that `save_to_disk` wrote."""
    if file.suffix.lower() == ".tsv":
        yield from tsv_rows(file)
    elif file.suffix.lower() == ".json" and (held := _rows_by_key(file)) is not None:
        yield from held
    elif file.is_dir():
        yield from table_rows(Reading(file, file, split=split))
    else:
        yield from table_rows(Reading(file, file.parent))


def _rows_by_key(file: Path) -> list[Placed] | None:
    """Rows of a JSON object of objects, keyed by id; None for any other JSON."""
    with file.open(encoding="utf-8-sig", errors="replace") as text:
        if next((c for c in iter(lambda: text.read(1), "") if not c.isspace()), "") != "{":
            return None
    try:
        held = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(held, dict) or not held or not all(isinstance(row, dict) for row in held.values()):
        return None
    return [(f"{file.name}:{key}", {"_key": key, **row}) for key, row in held.items()]


def tsv_rows(file: Path) -> Iterator[Placed]:
    """Rows of VLMEvalKit's TSV: columns by name, images in base64; an image that is the index of another row refers to
    that row's image.

    Numbers stay strings.
    """
    csv.field_size_limit(1 << 30)
    images: dict[str, str] = {}
    with file.open(encoding="utf-8-sig", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines, delimiter="\t"), 2):
            where = f"{file.name}:{number}"
            if None in row or None in row.values():
                yield where, ValueError("has a different number of columns from the first line")
                continue
            held: Row = dict(row)
            image = held.get("image", "")
            if len(image) <= 64 and image in images:
                held["image"] = images[image]
            elif image:
                images[str(held.get("index"))] = image
            yield where, held


def decoded(text: str) -> bytes:
    """An image in base64. ValueError."""
    try:
        return base64.b64decode(text.partition("base64,")[2] or text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"field 'image': got {records.shown(text)}, expected a file name or base64") from None


def text_of(row: Row, *names: str) -> str:
    """The first of these fields that is there, as text; ValueError when none is."""
    for name in names:
        value = row.get(name)
        if value is not None:
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if isinstance(value, str | int | float):
                return str(value).strip()
            raise ValueError(f"field '{name}': got {records.shown(value)}, expected a text or a number")
    raise ValueError(f"field '{names[0]}' is missing; the row has {listed(row)}")


def at(where: str, error: ValueError) -> ValueError:
    """The error with the place of its row."""
    return ValueError(cut(f"{where}: {error}", LONGEST_REASON))
