"""The sizes of a Parquet column's pages, from their own headers: a footer may say something else, and what reads a page
takes memory for all of it. The headers are structs of Thrift's compact protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MOST_PAGES = 1 << 17
_TYPE, _UNPACKED, _PACKED = 1, 2, 3
"""Fields of a page's header."""
_DICTIONARY = 2
"""The type of a page that holds a dictionary."""
_INTEGERS, _STRUCT, _DEEPEST = (4, 5, 6), 12, 16
_LONGEST_VARINT, _LONGEST_LIST = 10, 1000


@dataclass(slots=True)
class Pages:
    """Bytes of a column's pages once they are unpacked."""

    total: int = 0
    largest: int = 0
    dictionary: int = 0


def pages_of(path: Path, column: Any) -> Pages:
    """The pages of a column chunk, `column` its metadata of pyarrow. ValueError for headers that are none, and for more
    than MOST_PAGES."""
    start, found = column.data_page_offset, Pages()
    if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
        start = column.dictionary_page_offset
    end, number = start + column.total_compressed_size, 0
    with path.open("rb") as file:
        file.seek(start)
        while file.tell() < end:
            header = _struct(file)
            size, packed = header.get(_UNPACKED, -1), header.get(_PACKED, -1)
            if size < 0 or packed < 0 or (number := number + 1) > MOST_PAGES:
                what = f"more than {MOST_PAGES:,} pages" if number > MOST_PAGES else "a page without a size"
                raise ValueError(f"column {column.path_in_schema!r} has {what}")
            found.total, found.largest = found.total + size, max(found.largest, size)
            if header.get(_TYPE) == _DICTIONARY:
                found.dictionary += size
            file.seek(packed, 1)
    return found


def _struct(file: BinaryIO, depth: int = 0) -> dict[int, int]:
    """The integers of a struct by the numbers of their fields; what else it has is passed over."""
    found, number = dict[int, int](), 0
    while True:
        byte = _byte(file)
        if not byte:
            return found
        kind = byte & 15
        number = number + (byte >> 4) if byte >> 4 else _integer(file)
        if kind in _INTEGERS:
            found[number] = _integer(file)
        elif kind not in (1, 2):  # a truth value is in its type
            _pass_over(file, kind, depth)


def _pass_over(file: BinaryIO, kind: int, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("a page's header is nested too deeply")
    if kind in (1, 2, 3):
        file.seek(1, 1)
    elif kind in _INTEGERS:
        _varint(file)
    elif kind == 7:
        file.seek(8, 1)
    elif kind == 8:
        file.seek(_varint(file), 1)
    elif kind in (9, 10):
        byte = _byte(file)
        count = _varint(file) if byte >> 4 == 15 else byte >> 4
        if count > _LONGEST_LIST:
            raise ValueError("a page's header has a list that is too long")
        for _ in range(count):
            _pass_over(file, byte & 15, depth + 1)
    elif kind == _STRUCT:
        _struct(file, depth + 1)
    else:
        raise ValueError(f"a page's header has a value of type {kind}")


def _byte(file: BinaryIO) -> int:
    if not (byte := file.read(1)):
        raise ValueError("a page's header is cut off")
    return byte[0]


def _varint(file: BinaryIO) -> int:
    value = 0
    for place in range(_LONGEST_VARINT):
        byte = _byte(file)
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value
    raise ValueError("a page's header has a number that is too long")


def _integer(file: BinaryIO) -> int:
    """A signed number, which is written as 2n or -2n - 1."""
    value = _varint(file)
    return value >> 1 if not value & 1 else -(value >> 1) - 1
