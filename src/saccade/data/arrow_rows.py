"""Rows of Arrow's tables as Python objects, with the values that their writers meant."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyarrow import types

from saccade.data.columns import LIGHT_BYTES, is_heavy, pieces, too_large, with_types
from saccade.data.records import PartlyRead, Row
from saccade.data.unpacked import Packed, taken
from saccade.faults import first_line

LARGEST_DESCRIPTION, LONGEST_NAME = 4 << 20, 1_000
"""Bytes of the description of a set's columns, and characters of the name of a class."""
_ODD = (pa.ArrowException, ValueError, ArithmeticError, LookupError)
"""What a value raises that Python does not have."""
_Named = Callable[[Any], Any]
"""A value -> the same with the names of classes in place of their numbers."""


@dataclass
class Labels:
    """The columns whose numbers stand for names of classes."""

    columns: dict[str, _Named] = field(default_factory=dict)
    taken: int = 0
    """Characters of the names that were put in."""

    def names_of(self, entry: Any) -> _Named | None:
        """How a value of a column, or part of it, is named, by its entry in the description; None without classes."""
        if isinstance(entry, list):
            inner = self.names_of(entry[0]) if len(entry) == 1 else None
            return inner and (lambda value: _each(inner, value))
        if not isinstance(entry, dict):
            return None
        if entry.get("_type") == "ClassLabel":
            return self._label(entry.get("names"))
        if "feature" in entry and "_type" in entry:
            inner = self.names_of(entry["feature"])
            return inner and (lambda value: _each(inner, value))
        parts = {key: found for key, one in entry.items() if (found := self.names_of(one)) is not None}

        def of_parts(value: Any) -> Any:
            if not isinstance(value, dict):
                return _each(of_parts, value) if isinstance(value, list) else value
            return {key: parts[key](one) if key in parts else one for key, one in value.items()}

        return of_parts if parts else None

    def _label(self, names: Any) -> _Named | None:
        if isinstance(names, dict) and list(names) == [str(place) for place in range(len(names))]:
            names = [*names.values()]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return None
        if long := [name for name in names if len(name) > LONGEST_NAME]:
            raise ValueError(f"a class has a name of {len(long[0]):,} characters, expected {LONGEST_NAME:,} at most")

        def name_of(value: Any) -> Any:
            if isinstance(value, list):  # of a sequence
                return _each(name_of, value)
            if type(value) is not int or value == -1:
                return None if value == -1 else value  # -1: not known
            if not 0 <= value < len(names):
                raise ValueError(f"class {value} has no name; there are {len(names):,}")
            self.taken += len(names[value])
            return names[value]

        return name_of


def _each(named: _Named, value: Any) -> Any:
    return [named(one) for one in value] if isinstance(value, list) else named(value)


def labels_of(schema: Any) -> Labels:
    """The columns with classes, as `datasets` describes them in the metadata of a file. ValueError for a description
    that is too large."""
    text, found = (schema.metadata or {}).get(b"huggingface", b"{}"), Labels()
    if len(text) > LARGEST_DESCRIPTION:
        raise ValueError(f"its columns are described in {len(text):,} bytes, expected {LARGEST_DESCRIPTION:,} at most")
    try:
        features = json.loads(text)["info"]["features"] if b"ClassLabel" in text else {}
        entries = [*features.items()]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return found
    for name, entry in entries:
        with suppress(RecursionError):
            if (named := found.names_of(entry)) is not None:
                found.columns[name] = named
    return found


def rows_of(table: Any, packed: Packed | None = None, labels: Labels | None = None) -> Iterator[Row | ValueError]:
    """The rows of a batch or table one by one; the error to raise for a row that is too large, and for one with a text
    that is not UTF-8. A row with a time that Python does not have lacks that column only. `labels`: see `labels_of`.
    ValueError when all rows so far are more than `packed` allows."""
    for piece in pieces(table):
        if packed is not None:
            packed.add(taken(piece))
        for row in _found(piece):
            if labels is None or not labels.columns or not isinstance(row, dict):
                yield row
                continue
            before = labels.taken
            yield _named(row, labels)
            if packed is not None:
                packed.add(labels.taken - before)


def _found(piece: Any) -> Iterator[Row | ValueError]:
    if piece.nbytes <= LIGHT_BYTES and not is_heavy(piece):
        try:
            yield from _objects(piece)
            return
        except _ODD:
            pass  # of one of its rows
    for place in range(piece.num_rows):
        row = piece.slice(place, 1)
        yield too_large(row) if is_heavy(row) else _row(row)


def _row(row: Any) -> Row | ValueError:
    try:
        return _objects(row)[0]
    except _ODD as error:
        times, odd = [one.name for one in row.schema if types.is_temporal(one.type)], dict[str, str]()
        for name in times:
            try:
                _objects(row.select([name]))
            except _ODD as why:
                odd[name] = f"column {name!r} has a time that cannot be read ({first_line(why)})"
        if odd:
            rest = _row(row.select([name for name in row.schema.names if name not in odd]))
            return PartlyRead(rest, {}, odd) if isinstance(rest, dict) else rest
        return ValueError(f"the row has a value that cannot be read ({first_line(error)})")


def _objects(piece: Any) -> list[Row]:
    for place, one in enumerate(piece.schema):
        if (kind := with_types(one.type, _wide)) == one.type:
            continue
        text = with_types(one.type, _as_text)
        piece = piece.set_column(place, one.name, piece[one.name].cast(text).cast(kind, safe=False))
    return piece.to_pylist(maps_as_pydicts="strict")


def _as_text(kind: Any) -> Any:
    return pa.string() if kind == pa.float32() else kind


def _wide(kind: Any) -> Any:
    """The type whose values are Python's for one whose are not. Numbers of 32 bits become the shortest decimals that
    stand for them, as their writers print them: 0.1, not 0.10000000149."""
    if kind == pa.float32():
        return pa.float64()
    if types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    return {pa.duration("ns"): pa.duration("us"), pa.time64("ns"): pa.time64("us")}.get(kind, kind)


def _named(row: Row, labels: Labels) -> Row:
    """A row with the names of its classes; without a column whose class has none."""
    held, odd = dict(row), dict[str, str]()  # also of columns that are not read
    for name, name_of in labels.columns.items():
        if name in held:
            try:
                held[name] = name_of(held[name])
            except ValueError as error:
                del held[name]
                odd[name] = f"column {name!r}: {error}"
    named = row | held
    if odd:
        named = PartlyRead(named, {}, odd)
        for name in odd:
            named.pop(name)
    return named
