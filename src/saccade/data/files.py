"""Rows of tables in any file format: JSONL, JSON, Parquet, a Hugging Face data set on disk or on the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from saccade.data.columns import BATCH, Columns, first_line, parquet_rows, rows_of, saved_rows
from saccade.data.json_stream import elements
from saccade.data.records import Placed, Reading, jsonl_rows

_PATTERN = re.compile(r"[*?\[]")
_SHARD = re.compile(r"-\d+-of-\d+$")


def table_rows(reading: Reading) -> Iterator[Placed]:
    """(place, row) of everything at `reading.path`. ValueError when nothing there is readable."""
    if reading.hub:
        yield from _hub(str(reading.path), reading.split or "train", reading.columns)
        return
    path = reading.path
    if path.is_dir() and any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        yield from saved_rows(path, reading.split or "train", reading.columns)
        return
    if reading.split is not None:
        raise ValueError(
            f"{path}: split {reading.split!r} applies only to Hugging Face data sets (a folder of "
            "save_to_disk, or hub); a file has no splits, remove 'split'"
        )
    for file in files_at(path):
        yield from _KINDS[file.suffix.lower()](file, reading.columns)


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
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in _KINDS and file.is_file())
        if not found:
            raise ValueError(f"{path}: there is no {kinds} file in this folder")
        sets = sorted({_SHARD.sub("", file.stem) for file in found})
        if len(sets) > 1:
            raise ValueError(
                f"{path}: holds {', '.join(sets)}, perhaps training and test together; use one file, or a pattern for "
                f"its shards such as {path / sets[0]}*"
            )
    elif path.is_file():
        found = [path]
    else:
        raise ValueError(f"{path}: there is no such file")
    for file in found:
        if file.suffix.lower() not in _KINDS:
            raise ValueError(f"{file}: got a file '{file.suffix}', expected one of {kinds}")
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
        return pq.ParquetFile(file).metadata.num_rows
    with file.open("rb") as lines:
        return sum(bool(line.strip()) for line in lines)


def _json_rows(path: Path) -> Iterator[Placed]:
    """The elements of a JSON list with their starting lines; a file that starts with an object is read as JSONL."""
    with path.open(encoding="utf-8-sig", errors="replace") as text:
        first = next((c for c in iter(lambda: text.read(1), "") if not c.isspace()), "")
    if first == "{":
        yield from jsonl_rows(path)
        return
    for _, line, element in elements(path):
        if isinstance(element, dict | ValueError):
            yield f"{path.name}:{line}", element
        else:
            yield f"{path.name}:{line}", ValueError(f"got a JSON {type(element).__name__}, expected an object")


_KINDS: dict[str, Callable[[Path, Columns], Iterator[Placed]]] = {
    ".jsonl": lambda path, columns: jsonl_rows(path),
    ".json": lambda path, columns: _json_rows(path),
    ".parquet": parquet_rows,
}
"""Suffix -> rows."""


# ------------------------------------------------------------------------------------------------------- Hugging Face


def _hub(name: str, split: str, columns: Columns) -> Iterator[Placed]:
    """A data set on the hub, with images as bytes."""
    loaded = _load(name, split)
    number = count(1)
    for table in loaded.with_format("arrow").iter(batch_size=BATCH):
        for row in rows_of(table, columns):
            yield f"{name}[{split}]:{next(number)}", row


def _load(name: str, split: str) -> Any:
    try:
        datasets: Any = import_module("datasets")  # optional, so a type checker may not find it
    except ImportError:
        raise ValueError(
            f"hub {name!r}: reading from the hub needs the package 'datasets', which is not installed; run "
            "'pip install datasets', or download the files and set 'path'"
        ) from None
    try:
        return datasets.load_dataset(name, split=split)
    except (OSError, ValueError, RuntimeError) as error:  # no network, no such name, no such split, a gated set
        raise ValueError(
            f"hub {name!r}: cannot load this data set with split {split!r} ({first_line(error)}); check name, "
            "split and network, or download the files and set 'path'"
        ) from error
