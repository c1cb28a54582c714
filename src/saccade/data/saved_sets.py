"""Folders that `datasets` wrote with `save_to_disk`: rows of Arrow files in bounded memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from saccade.data.arrow_rows import labels_of, rows_of
from saccade.data.columns import inner_types, with_types
from saccade.data.records import Placed
from saccade.data.texts import LARGEST_SETTINGS, text_in
from saccade.data.unpacked import Packed
from saccade.faults import first_line, listed, shown

_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}


def saved_rows(path: Path, split: str) -> Iterator[Placed]:
    """A folder written by `save_to_disk`, read without the package `datasets`."""
    if (path / "dataset_dict.json").is_file():
        splits = _described(path / "dataset_dict.json", "splits")
        if split not in splits:
            raise ValueError(f"{path}: there is no split {split!r}; it has {listed(splits)}")
        path = path / split
    number, packed = count(1), Packed()
    seen = set[str]()
    for file in _described(path / "state.json", "_data_files"):
        name = file.get("filename") if isinstance(file, dict) else None
        if not isinstance(name, str) or Path(name).name != name or not os.path.isfile(path / name):
            raise ValueError(f"{path / 'state.json'}: names the data file {shown(name)}, expected a file beside it")
        if name in seen:
            raise ValueError(f"{path / 'state.json'}: names the data file {shown(name)} twice, expected each once")
        seen.add(name)
        try:
            _refuse_compressed(path / name)
            packed.size += (path / name).stat().st_size
            with pa.memory_map(str(path / name)) as source, pa.ipc.open_stream(source) as stream:
                _refuse_extensions(stream.schema)
                labels = labels_of(stream.schema)
                for batch in stream:
                    _refuse_broken(batch)
                    for row in rows_of(batch, packed, labels):
                        yield f"{path.name}:{next(number)}", row
        except (pa.ArrowException, ValueError, OSError) as error:
            why = f"not an Arrow file that can be read ({first_line(error)})"
            yield f"{path.name}/{name}", ValueError(why)


def _refuse_extensions(schema: Any) -> None:
    """ValueError for a type that is defined beside Arrow: what it stores is looked at by no check here, and the library
    ends the process at some."""
    for field in schema:
        for kind in (field.type, *inner_types(field.type)):
            if isinstance(kind, pa.BaseExtensionType):
                raise ValueError(f"column {shown(field.name)} is of the type {shown(str(kind))}; save it plainly")


def _refuse_compressed(path: Path) -> None:
    """ValueError for an Arrow file with compressed buffers, which are unpacked whole whatever their size; 'datasets'
    writes none. In Arrow's flatbuffers a message has its header as the third field, a batch its compression as the
    fourth, a dictionary its batch as the second."""
    with pa.memory_map(str(path)) as source:
        for message in pa.ipc.MessageReader.open_stream(source):
            content = message.metadata.to_pybytes()
            header = _flat_field(content, int.from_bytes(content[:4], "little"), 2)
            if header and message.type == "dictionary":
                header = _flat_field(content, header, 1)
            if header and message.type != "schema" and _flat_field(content, header, 3):
                raise ValueError("its buffers are compressed; save it without compression")


def _refuse_broken(batch: Any) -> None:
    """ArrowInvalid for offsets that lead out of their buffers, with which the process would crash. Texts are looked at
    as bytes, since one that is not UTF-8 costs its row only."""
    for column in batch.columns:
        column.view(with_types(column.type, lambda kind: _BYTES.get(kind, kind))).validate(full=True)


def _flat_field(content: bytes, table: int, number: int) -> int:
    """The place of the table that a field of a flatbuffer's table refers to; 0 where it is not set."""
    first = table - int.from_bytes(content[table : table + 4], "little", signed=True)
    size, entry = int.from_bytes(content[first : first + 2], "little"), 4 + 2 * number
    offset = int.from_bytes(content[first + entry : first + entry + 2], "little") if entry < size else 0
    return table + offset + int.from_bytes(content[table + offset :][:4], "little") if offset else 0


def _described(path: Path, key: str) -> list[Any]:
    try:
        found = json.loads(text_in(path, LARGEST_SETTINGS)).get(key) or []
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not as 'datasets' writes it ({first_line(error)})") from None
    if not isinstance(found, list):
        raise ValueError(f"{path}: '{key}' is {shown(found)}, expected a list")
    return found
