"""Rows of Arrow's tables as Python objects, with the values that their writers meant."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from pyarrow import types

from saccade.data.columns import LIGHT_BYTES, is_heavy, pieces, too_large, with_types
from saccade.data.records import PartlyRead, Row
from saccade.data.unpacked import Packed, taken
from saccade.faults import first_line, shown

LARGEST_DESCRIPTION = 4 << 20
"""Bytes of the description of a set's columns."""
_ODD = (pa.ArrowException, ValueError, ArithmeticError, LookupError)
"""What a value raises that Python does not have."""
Labels = Mapping[str, Any]
"""Column with the names of classes -> its entry in the description."""


def labels_of(schema: Any) -> Labels:
    """The columns whose numbers stand for names of classes, as `datasets` describes them in the metadata of a file.
    ValueError for a description that is too large."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    if len(text) > LARGEST_DESCRIPTION:
        raise ValueError(f"its columns are described in {len(text):,} bytes, expected {LARGEST_DESCRIPTION:,} at most")
    try:
        features = json.loads(text)["info"]["features"]
        return {name: one for name, one in features.items() if b"ClassLabel" in text and _has_names(one)}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}


def rows_of(table: Any, packed: Packed | None = None, labels: Labels | None = None) -> Iterator[Row | ValueError]:
    """The rows of a batch or table one by one; the error to raise for a row that is too large, and for one with a text
    that is not UTF-8. A row with a time that Python does not have lacks that column only. `labels`: see `labels_of`.
    ValueError when all rows so far are more than `packed` allows."""
    for piece in pieces(table):
        if packed is not None:
            packed.add(taken(piece))
        for row in _found(piece):
            yield _named(row, labels) if labels and isinstance(row, dict) else row


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
    for place, field in enumerate(piece.schema):
        if types.is_decimal(field.type) or (kind := with_types(field.type, _wide)) == field.type:
            continue
        text = with_types(field.type, lambda one: pa.string() if one == pa.float32() else one)
        piece = piece.set_column(place, field.name, piece[field.name].cast(text).cast(kind, safe=False))
    return piece.to_pylist(maps_as_pydicts="strict")


def _wide(kind: Any) -> Any:
    """The type whose values are Python's for one whose are not. Numbers of 32 bits become the shortest decimals that
    stand for them, as their writers print them: 0.1, not 0.10000000149; decimals within lists become numbers."""
    if kind == pa.float32() or types.is_decimal(kind):
        return pa.float64()
    if types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    return {pa.duration("ns"): pa.duration("us"), pa.time64("ns"): pa.time64("us")}.get(kind, kind)


def _named(row: Row, labels: Labels) -> Row | ValueError:
    """A row with the names of its classes."""
    held = dict(row)  # also of columns that are not read
    try:
        return row | {name: _name(one, held[name]) for name, one in labels.items() if name in held}
    except ValueError as error:
        return error


def _has_names(entry: Any) -> bool:
    if isinstance(entry, list):
        return any(map(_has_names, entry))
    return isinstance(entry, dict) and (_is_label(entry) or any(map(_has_names, entry.values())))


def _is_label(entry: Any) -> bool:
    names = entry.get("names") if isinstance(entry, dict) and entry.get("_type") == "ClassLabel" else None
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _name(entry: Any, value: Any) -> Any:
    """A value with names in place of the numbers of classes; a list or an object has them in its parts."""
    if _is_label(entry):
        if isinstance(value, list):  # of a sequence
            return [_name(entry, one) for one in value]
        if type(value) is not int:
            return value
        if value >= len(entry["names"]) or value < -1:
            raise ValueError(f"class {value} has no name; there are {shown(entry['names'])}")
        return None if value < 0 else entry["names"][value]  # -1: not known
    if isinstance(entry, list) and entry and isinstance(value, list):
        return [_name(entry[0], one) for one in value]
    if isinstance(entry, dict) and "feature" in entry and "_type" in entry:
        inner = entry["feature"]
        return [_name(inner, one) for one in value] if isinstance(value, list) else _name(inner, value)
    if isinstance(entry, dict) and isinstance(value, dict):
        return {key: _name(entry.get(key), one) for key, one in value.items()}
    if isinstance(value, list):  # of an object, whose parts are lists
        return [_name(entry, one) for one in value]
    return value
