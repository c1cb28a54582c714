"""Rows of tables in any file format: JSONL, JSON, CSV, TSV, Parquet, a Hugging Face data set on disk or on the hub."""

from __future__ import annotations

import csv
import os
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import TextIO

from saccade.data.annotations import yolo_files
from saccade.data.hub_sets import set_files
from saccade.data.json_stream import MOST_ELEMENTS, elements
from saccade.data.parquet import count_parquet, parquet_rows
from saccade.data.records import LARGEST_ROW, Placed, Reading, jsonl_rows
from saccade.data.saved_sets import saved_rows
from saccade.data.unpacked import Packed
from saccade.disk import skip_hole
from saccade.faults import listed, no_file, shown

DELIMITERS = {".csv": ",", ".tsv": "\t"}
LARGEST_CELL = 1 << 25
"""Characters of a cell, which may hold an image."""
LARGEST_CELLS = 2 * LARGEST_CELL
"""Characters of a row."""
CROWDED = f"more than {MOST_ELEMENTS:,} separators in one row, also those in quotes"
MOST_OPEN_QUOTES = 10
UNNAMED = "Unnamed: 0"
"""Name of a first column without one, in which pandas writes row numbers."""
LISTS = ("data", "questions", "annotations", "rows", "samples", "items", "examples", "train", "validation", "test")
"""Keys of a JSON object under which its rows may be."""
PACKED = (".gz", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_PATTERN = re.compile(r"[*?\[]")
_BLANK = BOM_UTF8 + b" \t\r\n"
_SHARD = re.compile(r"-\d+-of-\d+$")


def table_rows(reading: Reading) -> Iterator[Placed]:
    """(place, row) of everything at `reading.path`. ValueError when nothing there is readable."""
    if reading.hub:
        yield from hub_rows(str(reading.path), None, reading.split or "train")
        return
    path = reading.path
    if path.is_dir() and any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        yield from saved_rows(path, reading.split or "train")
        return
    if (path / "data").is_dir() and not row_files(path):  # a clone of a data set of the hub
        yield from _rows_in(_shards(path / "data", reading.split or "train"))
        return
    if reading.split is not None:
        raise ValueError(
            f"{path}: split {reading.split!r} applies only to Hugging Face data sets (a folder of "
            "save_to_disk, or hub); a file has no splits, remove 'split'"
        )
    yield from _rows_in(files_at(path))


def _rows_in(files: Iterable[Path]) -> Iterator[Placed]:
    """The rows of files one after another; those of Parquet may take together what one file may."""
    packed = Packed()
    for file in files:
        kind = file.suffix.lower()
        yield from parquet_rows(file, packed) if kind == ".parquet" else _KINDS[kind](file)


def size_at(reading: Reading) -> int:
    """Bytes on the disk of all that is at a path, and of what a YAML file there describes."""
    path = reading.path
    if reading.hub:
        files: Iterable[Path] = set_files(str(path), None, reading.split or "train", _KINDS)
    elif path.is_dir():
        files = path.rglob("*")
    elif path.suffix in (".yaml", ".yml"):
        files = yolo_files(reading)
    else:
        files = path.parent.glob(path.name) if is_pattern(path) else [path]
    found = (os.stat(one) for one in {os.path.realpath(one) for one in files} if os.path.isfile(one))
    return sum(min(one.st_size, 512 * one.st_blocks) for one in found)  # less than its size for a file with holes


def is_pattern(path: Path) -> bool:
    """Whether a path is a glob pattern."""
    return _PATTERN.search(path.name) is not None and not path.exists()


def files_at(path: Path) -> list[Path]:
    """The files of a path: itself, the matches of a pattern, or the shards in a folder."""
    kinds = ", ".join(_KINDS)
    if is_pattern(path):
        found = sorted(path.parent.glob(path.name))
        if not found:
            raise ValueError(f"{path}: there is no such file; no name in {path.parent} matches the pattern")
    elif path.is_dir():
        found = row_files(path)
        if not found:
            inner = [one.name for one in sorted(path.iterdir()) if one.is_dir() and row_files(one)]
            hint = f"; there are some in {', '.join(inner[:10])}, use one of them" if inner else ""
            raise ValueError(f"{path}: there is no {kinds} file in this folder{hint}")
        sets = sorted({_SHARD.sub("", file.stem) for file in found})
        if len(sets) > 1:
            raise ValueError(
                f"{path}: holds {listed(sets)}, perhaps training and test together; use one file, or a pattern for "
                f"its shards such as {path / sets[0]}*"
            )
    elif path.is_file():
        found = [path]
    else:
        raise ValueError(f"{path}: {no_file(path)}")
    for file in found:
        if not file.is_file():
            raise ValueError(f"{file}: is no regular file (a folder, pipe, device or a link to nothing); move it away")
        if file.suffix.lower() not in _KINDS:
            hint = "; unpack it first" if file.suffix.lower() in PACKED else ""
            raise ValueError(f"{file}: got a file '{file.suffix}', expected one of {kinds}{hint}")
    return found


def row_files(folder: Path) -> list[Path]:
    """The files of rows in a folder; CSV and TSV count if there is nothing else, since they often only describe it."""
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in _KINDS and file.is_file())
    return [file for file in found if file.suffix.lower() not in DELIMITERS] or found


def _shards(folder: Path, split: str) -> list[Path]:
    """The files of a split in the `data` folder of a data set: `train-00000-of-00002.parquet`, `train.jsonl` and so
    on."""
    files = row_files(folder)
    found = [file for file in files if re.split(r"[-.]", file.name)[0] == split]
    if not found:
        splits = listed(dict.fromkeys(re.split(r"[-.]", file.name)[0] for file in files))
        raise ValueError(f"{folder}: there is no split {split!r}; it has {splits}")
    return found


def count_rows(path: Path) -> int | None:
    """The number of rows at a path if it is cheap to compute, else None."""
    try:
        files = files_at(path)
        return sum(_count(file) for file in files) if all(f.suffix in (".jsonl", ".parquet") for f in files) else None
    except (ValueError, OSError):
        return None


def _count(file: Path) -> int:
    if file.suffix == ".parquet":
        return count_parquet(file)
    rows = 0
    with file.open("rb") as lines:  # not line by line, since a line may be larger than the memory
        while block := lines.read(1 << 20):
            rows += block.count(b"\n")
            if not block.strip(b"\0"):
                skip_hole(lines)
    return rows


def _delimited_rows(path: Path) -> Iterator[Placed]:
    """Rows of a CSV or TSV file under the names of its first line, all cells as text. The place is the line on which a
    row ends. A CSV without commas in its first line is read with semicolons, tabs or bars.

    A row with a stray quote is an error of its own; after a quote that never closes, reading continues on the next
    line, MOST_OPEN_QUOTES times at most.
    """
    csv.field_size_limit(LARGEST_CELL)
    delimiter = DELIMITERS[path.suffix.lower()]
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:  # refused with their rows
        first = _line(file)
        if delimiter == "," and "," not in first:
            delimiter = next((one for one in ";\t|" if one in first), ",")
        try:
            if first.count(delimiter) > MOST_ELEMENTS:
                raise csv.Error(CROWDED)
            header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter, strict=True), [])]
        except csv.Error as error:
            raise ValueError(f"{path}: the first line is not {path.suffix[1:].upper()} ({error})") from None
        if len(header) > 1 and not header[0]:
            header[0] = UNNAMED
        if any("\udc80" <= letter <= "\udcff" for letter in first):
            raise ValueError(f"{path}: the first line is not UTF-8 text; save the file as UTF-8")
        if not all(header) or len(set(header)) < len(header) or not header:
            raise ValueError(f"{path}: the first line is {shown(header)}, expected a different name for each column")
        before = 1  # lines in front of those that are read next
        for _ in range(MOST_OPEN_QUOTES):
            file.seek(0)
            deque((_line(file) for _ in range(before)), maxlen=0)
            open_quote = yield from _cells(path, file, header, delimiter, before)
            if open_quote is None:
                return
            before = open_quote
        yield (
            f"{path.name}:{before}",
            ValueError(f"quotes of {MOST_OPEN_QUOTES} rows never close; the rest is not read"),
        )


def _line(file: TextIO) -> str:
    """The next line; of one that is too long its beginning, which is longer than any cell may be."""
    line = rest = file.readline(LARGEST_CELL + 2)
    while len(rest) > LARGEST_CELL and not rest.endswith(("\n", "\r")):
        rest = file.readline(LARGEST_CELL + 2)
    return line


def _cells(
    path: Path, file: TextIO, header: list[str], delimiter: str, before: int
) -> Generator[Placed, None, int | None]:
    """The rows of a file from here on; returns the line on which a quote opens that never closes, None at the end."""
    taken = separators = 0  # since the row began, which may have several lines

    def bounded() -> str:
        nonlocal taken, separators
        line = _line(file)
        taken, separators = taken + len(line), separators + line.count(delimiter)
        if taken > LARGEST_CELLS:
            raise csv.Error(f"row larger than the limit of {LARGEST_CELLS:,} characters")
        if separators > MOST_ELEMENTS:
            raise csv.Error(CROWDED)
        return line

    rows = csv.reader(iter(bounded, ""), delimiter=delimiter, strict=True)
    while True:
        begun, taken, separators = before + rows.line_num + 1, 0, 0
        try:
            cells = next(rows, None)
        except csv.Error as error:
            before += str(error) == CROWDED  # a line that the reader did not get to count
            endless = "unexpected end" in str(error) or "limit" in str(error)
            line = begun if endless else before + rows.line_num
            yield f"{path.name}:{line}", ValueError(f"not {path.suffix[1:].upper()}: {error}")
            if endless:
                return begun
            continue
        if cells is None:
            return None
        place = f"{path.name}:{before + rows.line_num}"
        if len(cells) == len(header):
            yield place, dict(zip(header, cells, strict=True))
        elif cells:
            yield place, ValueError(f"got {len(cells)} cells, expected {len(header)} ({listed(header)})")


def _json_rows(path: Path) -> Iterator[Placed]:
    """The elements of a JSON list, or of the one list in an object, with their starting lines, and their numbers where
    a line has several. A file whose first line is a complete row is read as JSONL."""
    with path.open("rb") as file:
        if file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE):
            raise ValueError(f"{path}: not UTF-8 text but UTF-16; save the file as UTF-8")
        file.seek(0)
        first = next((line for line in iter(lambda: file.readline(LARGEST_ROW), b"") if line.strip(_BLANK)), b"")
        more = next((line for line in iter(lambda: file.readline(LARGEST_ROW), b"") if line.strip()), b"")
    is_object = first.strip(_BLANK).startswith(b"{")
    alone = not more or first.count(b"[") > first.count(b"]")  # not a complete row
    wrapped = is_object and alone and re.search(rb'"(?:%s)"\s*:\s*\[\s*\{' % "|".join(LISTS).encode(), first[: 1 << 16])
    keyed = more.lstrip().startswith(b'"')
    if is_object and first.rstrip().endswith((b"}", b"},")) and not wrapped and not keyed:
        yield from jsonl_rows(path)
        return
    lists, bad, last = set[str](), False, 0
    number = count(1)
    for key, line, element in elements(path):
        bad = bad or isinstance(element, ValueError)
        if not is_object or key in LISTS:
            lists.add(key)
            if len(lists) > 1:
                raise ValueError(f"{path}: has lists under {' and '.join(sorted(lists))}; expected one list of rows")
        elif not isinstance(element, ValueError):
            continue
        row, more_of_line, last = next(number), line == last, line
        place = f"{path.name}:{line}{f', row {row}' if more_of_line else ''}"
        if isinstance(element, dict | ValueError):
            yield place, element
        else:
            yield place, ValueError(f"got a JSON {type(element).__name__}, expected an object")
    if is_object and not lists and not bad:
        raise ValueError(f"{path}: is one object; expected a list of rows, or one under {', '.join(LISTS)}")


_KINDS: dict[str, Callable[[Path], Iterator[Placed]]] = {
    ".jsonl": jsonl_rows,
    ".json": _json_rows,
    ".parquet": parquet_rows,
    ".csv": _delimited_rows,
    ".tsv": _delimited_rows,
}
"""Suffix -> rows."""


# ------------------------------------------------------------------------------------------------------- Hugging Face


def hub_rows(name: str, configuration: str | None, split: str) -> Iterator[Placed]:
    """A data set on the hub, with images as bytes. ValueError when it cannot be read."""
    number = count(1)
    for _, row in _rows_in(set_files(name, configuration, split, _KINDS)):
        yield f"{name}[{split}]:{next(number)}", row
