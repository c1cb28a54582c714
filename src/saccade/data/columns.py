"""Rows of Parquet and Arrow files in bounded memory: no column that is a bomb, few rows at a time.

A file of a few kilobytes can hold gigabytes (one long value in a dictionary, repeated), so rows are decoded in batches
whose worst size is known from the file's footer, and values are taken out row by row.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from saccade.data.footers import check_footer, decoded_bytes
from saccade.data.parquet_pages import DELTA_BYTE_ARRAY, PageHeaders, Pages
from saccade.data.records import PartlyRead, Placed, Row
from saccade.data.unpacked import RATIO, Packed, elements, taken
from saccade.faults import listed

log = logging.getLogger(__name__)

BATCH = 64
"""Most rows in memory at a time; each may include its images."""
BATCH_BYTES = 64 << 20
"""Most bytes that a batch of a column may decode to. Writers end a dictionary at 1 MB, so that BATCH rows fit."""
ROW_BYTES = 64 << 20
"""Most bytes of one row."""
ROW_ELEMENTS = 1_000_000
"""Most elements of the lists in one batch, and of a column chunk beside 10,000 for each of its rows."""
DENSE_BYTES = 32 << 20
"""Bytes of a column chunk that may be more than RATIO times as many as in the file."""
PAGE_BYTES, PAGE_RATIO = 96 << 20, 8
"""Bytes of the largest pages of all columns together, each of which is unpacked as a whole. Those that take less than
this many times the bytes of their chunk in the file do not count."""
LIGHT_BYTES = 8 << 20
"""A batch below it becomes Python objects at once, a larger one row by row."""
MOST_EMPTY, WIDE = 512 << 20, 512
"""Bytes that nulls within the lists of a row group may take where they are more than RATIO times as many as in the
file, or more than WIDE for each value."""
_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


def parquet_rows(path: Path, packed: Packed | None = None) -> Iterator[Placed]:
    """Rows of a Parquet file with their numbers from 1; columns that are bombs are left out aloud. `packed`: what the
    files before it took."""
    number, packed = count(1), packed or Packed()
    packed.size += path.stat().st_size
    try:
        check_footer(path)
        with pq.ParquetFile(path) as file:
            if file.metadata.serialized_size != _footer_bytes(path):  # signed; the library aborts the process
                raise ValueError("its columns are encrypted; write it without encryption")
            if len(set(names := file.schema_arrow.names)) < len(names):
                raise ValueError(f"the columns are {listed(names)}; expected a different name for each")
            headers, schema = PageHeaders(path, str(file.metadata.created_by)), file.schema_arrow
            for group in range(file.num_row_groups):
                names, at_a_time, bombs = _plan(path, group, file.metadata.row_group(group), schema, headers)
                if bombs and not names:
                    raise ValueError(f"{[*bombs.values()][-1]}; write it again with smaller values")
                pictures = next((why for name, why in bombs.items() if _holds_bytes(schema.field(name).type)), None)
                if bombs:
                    log.warning("%s: %s; the column is not read", path, pictures or [*bombs.values()][-1])
                # so small, threads only wait
                for batch in file.iter_batches(at_a_time, [group], names, use_threads=False):
                    for row in rows_of(_without_views(batch), packed):
                        found = PartlyRead(row, bombs) if bombs and isinstance(row, dict) else row
                        yield f"{path.name}:{next(number)}", ValueError(pictures) if pictures else found
    except (pa.ArrowException, ValueError, OSError) as error:
        yield f"{path.name}:{next(number)}", ValueError(f"not a Parquet file that can be read ({first_line(error)})")


def _plan(
    path: Path, number: int, group: Any, schema: Any, headers: PageHeaders
) -> tuple[list[str], int, dict[str, str]]:
    """The columns of a row group to read, rows of it that decode to BATCH_BYTES at most, and why others are not."""
    rows, at_a_time, bombs, known = max(1, group.num_rows), BATCH, dict[str, str](), set[str]()
    chunks = [group.column(place) for place in range(group.num_columns)]
    spreads = [(field.name, _spread(field.type)) for field in schema for _ in range(_leaves(field.type))]
    if len(spreads) != len(chunks):
        spreads = [(one.path_in_schema.split(".")[0], 8) for one in chunks]

    def leave_out(column: Any, name: str, held: int) -> None:
        bombs[name] = (
            f"column {column.path_in_schema!r} holds {held:,} bytes and {column.num_values:,} values in "
            f"{group.num_rows:,} rows and {column.total_compressed_size:,} packed bytes, which is more than data needs"
        )

    pages = list(map(headers.of, chunks))
    open_pages = 0
    for column, (name, spread), page in zip(chunks, spreads, pages, strict=True):
        size, packed = max(page.total, column.total_uncompressed_size), max(1, column.total_compressed_size)
        grown = page.largest if page.largest > PAGE_RATIO * packed else 0
        dense = (size > DENSE_BYTES and size > RATIO * packed) or open_pages + grown > PAGE_BYTES
        empty = column.num_values * spread  # bytes of lists with nothing but null in them
        hollow = empty > MOST_EMPTY and (spread > WIDE or empty > RATIO * packed)
        if dense or hollow or size > ROW_BYTES * rows or column.num_values > ROW_ELEMENTS + 10_000 * rows:
            leave_out(column, name, max(size, empty))
        else:
            open_pages += grown
    width = 0
    for field in schema:
        if width + (more := _width(field.type)) > ROW_BYTES:
            bombs[field.name] = f"column {field.name!r} has {more:,} bytes in each of its rows"
        else:
            width += more
    read = [(column, name, page) for column, (name, _), page in zip(chunks, spreads, pages, strict=True)]
    measured = _measured(path, number, [one for one in read if one[1] not in bombs])
    for column, name, _ in read:
        if width + (longest := measured.pop(name, 0)) > ROW_BYTES:
            leave_out(column, name, longest)
        elif longest:
            width += longest
            known.add(name)
    left = [one for one in read if one[1] not in bombs and one[1] not in known]
    while at_a_time > 1 and at_a_time * width + sum(_most(*one, at_a_time) for one in left) > BATCH_BYTES:
        at_a_time //= 2
    return [name for name in schema.names if name not in bombs], at_a_time, bombs


def _most(column: Any, name: str, pages: Pages, rows: int) -> int:
    """Bytes that rows of a column may decode to where each value counts by itself; of numbers see `_width`."""
    if column.path_in_schema != name:
        return min(pages.total, rows * pages.largest)
    return min(pages.total, pages.most(rows)) if column.physical_type == "BYTE_ARRAY" else 0


def _measured(path: Path, number: int, read: Sequence[tuple[Any, str, Pages]]) -> dict[str, int]:
    """Column -> bytes of its longest row, of those whose rows may decode to more than their share of the chunk because
    values repeat others: from a dictionary, or their beginnings. Empty where a batch is small in any case."""
    most, largest = dict[str, int](), dict[str, Pages]()
    for column, name, pages in read:
        shared = "DELTA_BYTE_ARRAY" in column.encodings or DELTA_BYTE_ARRAY in pages.encodings
        values = column.num_values if column.path_in_schema != name else min(BATCH, column.num_values)
        most[name] = most.get(name, 0) + values * (pages.total if shared else pages.dictionary)
        if name not in largest or pages.largest > largest[name].largest:
            largest[name] = pages
    if sum(most.values()) <= BATCH_BYTES:
        return {}
    much = BATCH_BYTES // (2 * len(most))
    return {name: decoded_bytes(path, number, name, largest[name]) for name, count in most.items() if count > much}


def _holds_bytes(kind: Any) -> bool:
    """Whether a type holds bytes of any length that are no texts, as images do."""
    tests = (types.is_binary, types.is_large_binary, types.is_binary_view)
    kind = _stored(kind)
    return any(test(kind) for test in tests) or any(map(_holds_bytes, _inside(kind)))


def _width(kind: Any) -> int:
    """Bytes that each row of a type takes, an empty one too."""
    kind = _stored(kind)
    if types.is_fixed_size_list(kind):
        return kind.list_size * max(1, _width(kind.value_type))
    if types.is_fixed_size_binary(kind):
        return kind.byte_width
    return sum(map(_width, _inside(kind))) if types.is_struct(kind) else 8


def _spread(kind: Any) -> int:
    """Bytes that a null value within the lists of a type takes, whatever it takes in the file; 0 without lists."""
    kind = _stored(kind)
    inside, fixed = _inside(kind), types.is_fixed_size_list(kind) or types.is_struct(kind)
    return max([*map(_spread, inside), 0 if fixed else sum(map(_width, inside))], default=0)


def _leaves(kind: Any) -> int:
    """Columns of Parquet that a type is written in."""
    return sum(map(_leaves, _inside(_stored(kind)))) or 1


def _stored(kind: Any) -> Any:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _footer_bytes(path: Path) -> int:
    """Bytes of a file's footer, as the file says."""
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        return int.from_bytes(file.read(4), "little")


def rows_of(table: Any, packed: Packed | None = None) -> Iterator[Row | ValueError]:
    """The rows of a batch or table one by one; the error to raise for a row beyond ROW_BYTES or ROW_ELEMENTS, and for
    one with a value that Python does not have: a date after the year 9999, text that is not UTF-8. ValueError when
    all rows so far are more than `packed` allows."""
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
        if packed is not None:
            packed.add(taken(piece))
        yield from _rows_of(piece)


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


def _without_views(batch: Any) -> Any:
    """A batch of Parquet, where views do not share bytes, with plain texts: Polars writes views, in lists too. Of types
    that are defined beside Arrow, such as JSON, what they store; the library crashes when it casts some of them."""
    columns = list(map(_storage, batch.columns))
    kinds = [one.type if any(map(_is_odd, inner_types(one.type))) else with_types(one.type, _VIEWS) for one in columns]
    plain = [one if one.type == kind else one.cast(kind) for one, kind in zip(columns, kinds, strict=True)]
    return pa.RecordBatch.from_arrays(plain, batch.schema.names)


def _storage(array: Any) -> Any:
    return _storage(array.storage) if isinstance(array, pa.ExtensionArray) else array


def with_types(kind: Any, other: Mapping[Any, Any]) -> Any:
    """A type with those of `other` in place of their keys, also within structs, lists and maps."""
    kind = _stored(kind)
    if types.is_struct(kind):
        return pa.struct([field.with_type(with_types(field.type, other)) for field in kind])
    if types.is_list(kind) or types.is_large_list(kind):
        value = kind.value_field.with_type(with_types(kind.value_type, other))
        return pa.list_(value) if types.is_list(kind) else pa.large_list(value)
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(with_types(kind.value_type, other)), kind.list_size)
    if types.is_map(kind):
        key, item = (one.with_type(with_types(one.type, other)) for one in (kind.key_field, kind.item_field))
        return pa.map_(key, item, keys_sorted=kind.keys_sorted)
    return other.get(kind, kind)


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


def _rows_of(table: Any) -> Iterator[Row | ValueError]:
    heavy = table.nbytes > ROW_BYTES or elements(table) > ROW_ELEMENTS
    if not heavy and table.nbytes <= LIGHT_BYTES:
        try:
            yield from table.to_pylist()
            return
        except (pa.ArrowException, ValueError, ArithmeticError):
            pass  # of one of its rows
    for place in range(table.num_rows):
        row = table.slice(place, 1)
        if heavy and (row.nbytes > ROW_BYTES or elements(row) > ROW_ELEMENTS):
            yield ValueError(f"a row of {row.nbytes:,} bytes and {elements(row):,} list elements is too large")
            continue
        try:
            yield row.to_pylist()[0]
        except (pa.ArrowException, ValueError, ArithmeticError) as error:
            yield ValueError(f"the row has a value that cannot be read ({first_line(error)})")


def first_line(error: BaseException) -> str:
    """The first line of an error message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
