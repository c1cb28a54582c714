"""The sizes of a Parquet column's pages, from their own headers: a footer may say something else, and what reads a page
takes memory for all of it. The headers are structs of Thrift's compact protocol."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

_TYPE, _UNPACKED, _PACKED = 1, 2, 3
"""Fields of a page's header."""
_ENCODING, _VALUES = {5: 2, 8: 4}, 1
"""Structs of a header about a page of the first or second version -> the field with its encoding; and the field with
the number of its values."""
_DICTIONARY, DELTA_BYTE_ARRAY = 2, 7
"""The type of a page that holds a dictionary, and the encoding in which values share their beginnings."""
_INT, _INTEGERS, _STRUCT, _DEEPEST = 5, (4, 5, 6), 12, 16
_LONGEST_VARINT, _LONGEST_LIST = 10, 1000
_SHORTEST, _PADDING = 15, 100
"""Bytes of a page with its header, at least; and those that the library reads behind a chunk of an old writer."""


@dataclass(slots=True)
class Pages:
    """Bytes of a column's pages once they are unpacked, and how they are encoded."""

    total: int = 0
    largest: int = 0
    dictionary: int = 0
    encodings: set[int] = field(default_factory=set)
    values: array[int] = field(default_factory=lambda: array("q"))
    """Of each page but dictionaries."""
    sizes: array[int] = field(default_factory=lambda: array("q"))

    def most(self, count: int) -> int:
        """Bytes of the pages that `count` consecutive values can lie in: one of them may be all of its page."""
        most = held = inside = first = 0
        for last, (values, size) in enumerate(zip(self.values, self.sizes, strict=True)):
            held, inside = held + size, inside + values
            while first < last and inside - self.values[first] - values > count - 2:  # all values between the two
                held, inside = held - self.sizes[first], inside - self.values[first]
                first += 1
            most = max(most, held)
        return most


class PageHeaders:
    """Of one file, which cannot have more pages than fit into it: chunks of columns may overlap."""

    def __init__(self, path: Path, writer: str = "") -> None:
        """`writer` is what the footer says of it: chunks of old ones may be longer than they say (PARQUET-816)."""
        self._path, self._left = path, path.stat().st_size // _SHORTEST + 1
        version = re.search(r"(\d+)\.(\d+)\.(\d+)", writer)
        number = [int(part) for part in version.groups()] if version else [0]
        self._more = _PADDING if "parquet-mr" in writer.lower() and number < [1, 2, 9] else 0

    def of(self, column: Any) -> Pages:
        """The pages of a column chunk, `column` its metadata of pyarrow. ValueError for headers that are none, and for
        more pages than the file can have."""
        start, found = column.data_page_offset, Pages()
        if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
            start = column.dictionary_page_offset
        end = start + column.total_compressed_size
        with self._path.open("rb") as file:
            file.seek(start)
            while (at := file.tell()) < end + self._more and column.num_values:
                try:
                    header = _struct(file)
                except ValueError:
                    if at >= end:
                        break  # it was no longer
                    raise
                size, packed = header.get(_UNPACKED, -1), header.get(_PACKED, -1)
                self._left -= 1
                if not isinstance(size, int) or not isinstance(packed, int) or min(size, packed, self._left) < 0:
                    if at >= end:
                        break
                    what = "a page without a size" if self._left >= 0 else "more pages than fit into the file"
                    raise ValueError(f"column {column.path_in_schema!r} has {what}")
                found.total, found.largest = found.total + size, max(found.largest, size)
                if header.get(_TYPE) == _DICTIONARY:
                    found.dictionary += size
                else:
                    found.sizes.append(size)
                    found.values.append(0)
                for name, place in _ENCODING.items():
                    if isinstance(inner := header.get(name), dict):
                        found.encodings.add(inner.get(place, -1))
                        if found.values and isinstance(values := inner.get(_VALUES), int):
                            found.values[-1] = max(0, values)
                file.seek(packed, 1)
        return found


def _struct(file: BinaryIO, depth: int = 0) -> dict[int, Any]:
    """The integers (32 bits) and structs of a struct by the numbers of their fields; what else it has is passed over,
    as the library does."""
    found, number = dict[int, Any](), 0
    while True:
        byte = _byte(file)
        if not byte:
            return found
        kind = byte & 15
        number = number + (byte >> 4) if byte >> 4 else _integer(file, 16)
        if kind == _INT:
            found[number] = _integer(file, 32)
        elif kind == _STRUCT and depth < _DEEPEST:
            found[number] = _struct(file, depth + 1)
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


def _integer(file: BinaryIO, bits: int) -> int:
    """A signed number, which is written as 2n or -2n - 1. ValueError for more bits, which the library cuts off."""
    value = _varint(file)
    if value >> bits:
        raise ValueError(f"a page's header has a number of more than {bits} bits")
    return value >> 1 if not value & 1 else -(value >> 1) - 1
