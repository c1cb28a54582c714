"""Parts of Arrow's tables in bounded memory: few rows at a time, with plain values. A file of a few kilobytes can hold
gigabytes: one long value in a dictionary, repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from saccade.data.unpacked import elements

BATCH = 64
"""Most rows in memory at a time; each may include its images."""
BATCH_BYTES = 64 << 20
"""Most bytes that rows with values in dictionaries, runs or views may have together."""
ROW_BYTES, ROW_ELEMENTS = 64 << 20, 1_000_000
"""Most bytes of one row, and most elements of all its lists."""
LIGHT_BYTES = 8 << 20
"""A batch below it is passed on at once, a larger one row by row."""
_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


def holds_bytes(kind: Any) -> bool:
    """Whether a type holds bytes of any length that are no texts, as images do."""
    tests = (types.is_binary, types.is_large_binary, types.is_binary_view)
    kind = _stored(kind)
    return any(test(kind) for test in tests) or any(map(holds_bytes, _inside(kind)))


def _stored(kind: Any) -> Any:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def is_heavy(piece: Any) -> bool:
    """Whether some rows are larger together than one may be."""
    return piece.nbytes > ROW_BYTES or elements(piece) > ROW_ELEMENTS


def too_large(row: Any) -> ValueError:
    """The error for a row that is heavy."""
    return ValueError(f"a row of {row.nbytes:,} bytes and {elements(row):,} list elements is too large")


def pieces(table: Any) -> Iterator[Any]:
    """Parts of a batch or table with plain values. ValueError for dictionaries, runs and views within others."""
    hidden = {one.name: max(1, table[one.name].nbytes) for one in table.schema if _is_indirect(one.type)}
    if nested := [one.name for one in table.schema if any(map(_hides, _inside(one.type)))]:
        raise ValueError(
            f"column {nested[0]!r} has values in a dictionary, run, view or odd type within others; save it plainly"
        )
    at_a_time = max(1, min(BATCH, BATCH_BYTES // max(hidden.values()))) if hidden else BATCH
    for start in range(0, table.num_rows, at_a_time):
        piece = table.slice(start, at_a_time)
        for name in hidden:
            place = piece.schema.get_field_index(name)
            piece = piece.set_column(place, name, _directly(piece[name]))
        yield piece


def _is_indirect(kind: Any) -> bool:
    """Whether many rows may share the bytes of one value."""
    tests = (types.is_dictionary, types.is_run_end_encoded, types.is_string_view, types.is_binary_view)
    return _is_odd(kind) or any(test(kind) for test in (*tests, types.is_list_view, types.is_large_list_view))


def _is_odd(kind: Any) -> bool:
    """Whether a type is defined beside Arrow and does not store plain texts."""
    return isinstance(kind, pa.BaseExtensionType) and kind.storage_type not in (pa.string(), pa.large_string())


def inner_types(kind: Any) -> list[Any]:
    """The types within a type, at all depths."""
    return [deep for one in _inside(kind) for deep in (one, *inner_types(one))]


def _hides(kind: Any) -> bool:
    return _is_indirect(kind) or any(map(_hides, _inside(kind)))


def plainly(batch: Any) -> Any:
    """A batch of Parquet with texts in place of views and categories, also within others, as Polars writes them. Of
    types that are defined beside Arrow, such as JSON, what they store, and UUIDs as texts; the library crashes when it
    casts some of them. A column of categories stays one, see `pieces`."""
    columns = list(map(_storage, batch.columns))
    kept = [types.is_dictionary(one.type) or any(map(_is_odd, inner_types(one.type))) for one in columns]
    kinds = [one.type if keep else with_types(one.type, _plain) for one, keep in zip(columns, kept, strict=True)]
    plain = [one if one.type == kind else one.cast(kind) for one, kind in zip(columns, kinds, strict=True)]
    return pa.RecordBatch.from_arrays(plain, batch.schema.names)


def _plain(kind: Any) -> Any:
    return _plain(kind.value_type) if types.is_dictionary(kind) else _VIEWS.get(kind, kind)


def _storage(array: Any) -> Any:
    if isinstance(array.type, pa.UuidType):
        return pa.array([None if one is None else str(one) for one in array.to_pylist()], pa.string())
    return _storage(array.storage) if isinstance(array, pa.ExtensionArray) else array


def with_types(kind: Any, changed: Callable[[Any], Any]) -> Any:
    """A type with others in it, also within structs, lists and maps."""
    kind = _stored(kind)
    if types.is_struct(kind):
        return pa.struct([field.with_type(with_types(field.type, changed)) for field in kind])
    if types.is_list(kind) or types.is_large_list(kind):
        value = kind.value_field.with_type(with_types(kind.value_type, changed))
        return pa.list_(value) if types.is_list(kind) else pa.large_list(value)
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(with_types(kind.value_type, changed)), kind.list_size)
    if types.is_map(kind):
        key, item = (one.with_type(with_types(one.type, changed)) for one in (kind.key_field, kind.item_field))
        return pa.map_(key, item, keys_sorted=kind.keys_sorted)
    return changed(kind)


def _inside(kind: Any) -> list[Any]:
    """The types within a type, but for the values of a dictionary, run or view."""
    if types.is_struct(kind):
        return [field.type for field in kind]
    if types.is_map(kind):
        return [kind.key_type, kind.item_type]
    return (
        [kind.value_type] if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) else []
    )


def _directly(column: Any) -> Any:
    """A dictionary, runs or views as plain values. ValueError for values that are of such a type themselves."""
    kind = column.type
    value = kind.value_type if types.is_dictionary(kind) or types.is_run_end_encoded(kind) else kind
    value = _VIEWS.get(value, value)
    if _hides(value):
        raise ValueError(f"a column of the type {kind} is not read; save it plainly")
    plain = pc.call_function("run_end_decode", [column]) if types.is_run_end_encoded(kind) else column
    return plain.cast(value)
