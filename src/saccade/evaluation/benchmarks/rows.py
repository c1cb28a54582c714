"""Rows of benchmark files: tables that `saccade.data` reads, VLMEvalKit's TSV, folders with known names, the hub."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from saccade.data import records
from saccade.data.files import hub_rows, size_at, table_rows
from saccade.data.formats import reader
from saccade.data.json_stream import elements
from saccade.data.kept import Kept
from saccade.data.records import Placed, Reading, Row, attempt
from saccade.evaluation.benchmarks.benchmark import Place
from saccade.faults import LONGEST_REASON, cut, listed, shown
from saccade.types import ImageSource, Sample

LONGEST_INDEX = 64
KINDS = (".jsonl", ".json", ".parquet", ".tsv")
_One = TypeVar("_One")


class Table:
    """The rows at a place with what their images need."""

    def __init__(self, place: Place, file: Path | None, hub: str | None = None) -> None:
        self.file, self.hub, self._held = file, hub, dict[ImageSource, ImageSource]()
        self.reading = place.reading(file or Path(hub or ""), hub=file is None)

    def images(self, value: Any) -> tuple[ImageSource, ...]:
        """As `records.images_of`, and images in base64 (TSV). The rows that have the same image share it in memory."""
        is_base64 = isinstance(value, str) and len(value) > 260
        found = (decoded(value),) if is_base64 else records.images_of(value, self.reading)
        return tuple(self._held.setdefault(one, one) for one in found)


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
        yield from ((table, where, row) for where, row in whole(hub_rows(*hub)))
        return
    for file in find(place, names):
        table = Table(place, file)
        yield from ((table, where, row) for where, row in whole(file_rows(file, hub[2])))


def samples_of(name: str, reading: Reading) -> Iterator[tuple[str, Sample]]:
    """What a reader of `saccade.data.READERS` makes of a file. ValueError, with its place, for an invalid row."""
    yield from whole(Kept().of(reader(name)(reading), partial(size_at, reading)))


def whole(rows: Iterable[tuple[str, _One | ValueError]]) -> Iterator[tuple[str, _One]]:
    """The rows. ValueError, with its place, for one that could not be read."""
    for where, row in rows:
        if isinstance(row, ValueError):
            raise at(where, row)
        yield where, row


def sample_at(where: str, read: Callable[[], Sample]) -> Sample:
    """The sample that `read` makes of a row. ValueError, with its place, when it makes none, or one whose answer could
    not be kept: with text that UTF-8 cannot write, nested too deeply."""
    ((_, sample),) = attempt(where, read)
    if isinstance(sample, ValueError):
        raise at(where, sample) from sample
    return sample


def file_rows(file: Path, split: str) -> Iterator[Placed]:
    """Rows of one file, or of a folder that `save_to_disk` wrote."""
    reading = Reading(file, file, split=split) if file.is_dir() else Reading(file, file.parent)
    if file.suffix.lower() == ".tsv":
        rows = tsv_rows(file)
    elif file.suffix.lower() == ".json" and _is_keyed(file):
        rows = _rows_by_key(file)
    else:
        rows = table_rows(reading)
    yield from Kept().of(rows, partial(size_at, reading))


def _is_keyed(file: Path) -> bool:
    """Whether a JSON file is an object of objects; other JSON, and what is none, `table_rows` reads or refuses."""
    found = False
    for key, _, value in elements(file, whole=True):
        found = isinstance(value, dict) and bool(key)  # the rows of a list have none
        if not found:
            break
    return found


def _rows_by_key(file: Path) -> Iterator[Placed]:
    """Rows of a JSON object of objects, keyed by id."""
    keys = set[str]()
    for key, line, row in elements(file, whole=True):
        if key in keys:
            yield f"{file.name}:{line}", ValueError(f"the key {shown(key)} is there twice")
        keys.add(key)
        yield f"{file.name}:{key}", {"_key": key, **row}


def tsv_rows(file: Path) -> Iterator[Placed]:
    """Rows of VLMEvalKit's TSV: columns by name, images in base64; an image that is the index of another row refers to
    that row's image.

    Numbers stay strings.
    """
    images: dict[str, str] = {}
    for where, row in table_rows(Reading(file, file.parent)):
        if isinstance(row, dict):
            image = row.get("image", "")
            if len(image) <= LONGEST_INDEX and image in images:
                row["image"] = images[image]
            elif image:
                images[str(row.get("index"))] = image
        yield where, row


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
