"""What rows of Parquet and Arrow files take in memory as Python objects, against the bytes of their file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
from pyarrow import types

RATIO = 200
"""Times its size that a file, or a large column chunk, may unpack to; text compresses 10 times, images not at all."""
MOST_UNPACKED = 2 << 30
"""Bytes of rows beyond which the files of a source may not unpack to more than RATIO times their size: they take time
and disk. What keeps all rows in memory has bounds of its own, see `kept`."""
_ROW, _MARK = 1024, 150
"""Bytes of a row beside its values, and of a bracket or comma in a text, which may be JSON."""
_ITEM, _LIST, _DICT, _FIELD, _TUPLE, _TEXT, _NUMBER = 8, 56, 64, 100, 56, 60, 32
"""Bytes of Python's objects: an item of a list, a list, a dictionary, one of its fields, an entry of a map, a text
beside its letters, a number."""
_WIDTHS = {
    4: r"[\x{10000}-\x{10FFFF}]|\\u[dD][89aAbB]",
    2: r"[\x{100}-\x{FFFF}]|\\u(?:[1-9a-fA-F]|0[1-9a-fA-F])[0-9a-fA-F]{2}",
}
"""Bytes that Python takes for each letter of a text with such letters, or with such escapes when it is JSON; else
one."""


@dataclass
class Packed:
    """What the rows of files take in memory, against the bytes of the files."""

    size: int = 0
    unpacked: int = 0

    def add(self, size: int) -> None:
        """ValueError for files that are small only because they repeat what they hold."""
        self.unpacked += size
        if self.unpacked > MOST_UNPACKED and self.unpacked > RATIO * self.size:
            raise ValueError(
                f"its rows unpack from {self.size:,} bytes to more than {self.unpacked:,}; the rest is not read; write "
                "it again with smaller values"
            )


def taken(piece: Any) -> int:
    """About as many bytes as the rows of a batch or table take as Python objects, where each text has two copies: as
    wide as its widest letter, and as JSON perhaps."""
    columns = _columns(piece)
    return piece.nbytes + _ROW * piece.num_rows + sum(map(_objects, columns)) + sum(map(_letters, columns))


def elements(piece: Any) -> int:
    """Elements of all lists in a batch or table and fields of all structures, at all depths."""
    return sum(map(_elements, _columns(piece)))


def _columns(piece: Any) -> list[Any]:
    return [chunk for column in piece.columns for chunk in getattr(column, "chunks", [column])]


def _parts(array: Any) -> list[Any]:
    """The values of the lists, the fields of the structures, or keys and values of the maps of an array."""
    if types.is_map(array.type):  # whose keys and items are those of the array that it is a slice of
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return [one.slice(first, last - first) for one in (array.keys, array.items)]
    if types.is_struct(array.type):
        return array.flatten()
    return [array.flatten()] if _is_list(array.type) else []


def _is_list(kind: Any) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _is_bytes(kind: Any) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def _is_text(kind: Any) -> bool:
    return types.is_string(kind) or types.is_large_string(kind)


def _elements(array: Any) -> int:
    parts = _parts(array)
    own = len(array) * len(parts) if types.is_struct(array.type) else len(parts[-1]) if parts else 0
    return own + sum(map(_elements, parts))


def _objects(array: Any) -> int:
    """Bytes of the Python objects of an array, but for the letters of texts."""
    kind, parts, there = array.type, _parts(array), len(array) - array.null_count
    inside = sum(map(_objects, parts))
    if types.is_struct(kind):
        return inside + there * (_DICT + _FIELD * len(parts))
    if parts:
        return inside + there * _LIST + len(parts[-1]) * (_ITEM + (_TUPLE if types.is_map(kind) else 0))
    small = types.is_null(kind) or types.is_boolean(kind) or kind in ("int8", "uint8")  # which Python has once
    return 0 if small else there * (_TEXT if _is_text(kind) or _is_bytes(kind) else _NUMBER)


def _letters(array: Any) -> int:
    """Bytes that the texts in an array take beyond what Arrow counts."""
    if parts := _parts(array):
        return sum(map(_letters, parts))
    if _is_bytes(array.type):
        texts = (one.as_buffer() for one in array if one.is_valid)
        return sum(7 * one.size for one in texts if _is_utf8(one))  # others are images, and have one copy
    if not _is_text(array.type):
        return 0
    plain = _total("utf8_length", array) == _total("binary_length", array)  # ASCII
    escaped = _total("match_substring", array, pc.MatchSubstringOptions("\\u"))
    widths = {} if plain and not escaped else _WIDTHS
    options = {width: pc.MatchSubstringOptions(letters) for width, letters in widths.items()}
    wide = next((width for width, one in options.items() if _total("match_substring_regex", array, one)), 1)
    marks = sum(_total("count_substring", array, pc.MatchSubstringOptions(mark)) for mark in "[{,")
    return (2 * wide - 1) * array.nbytes + _MARK * marks


def _is_utf8(buffer: Any) -> bool:
    try:
        return bool(str(memoryview(buffer), "utf-8"))
    except UnicodeDecodeError:
        return False


def _total(function: str, texts: Any, options: Any = None) -> int:
    return pc.call_function("sum", [pc.call_function(function, [texts], options)]).as_py() or 0
