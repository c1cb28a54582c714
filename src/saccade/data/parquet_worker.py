"""The process that reads Parquet files, in the memory that `_limit` allows: `python -m saccade.data.parquet_worker`.

At some footers that are damaged the library ends its process, and a few bytes of a file may unpack to any number, which
nothing but unpacking them tells. A job is a path, the bytes of memory, and what `rows` needs; the answers are
described at it and at `opened`.
"""

from __future__ import annotations

import os
import resource

os.environ |= {"OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}  # the others reserve a gigabyte at once

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saccade.data.columns import BATCH, LIGHT_BYTES, is_heavy, pieces, plainly, too_large
from saccade.data.unpacked import RATIO
from saccade.faults import first_line
from saccade.workers.channel import clean, connect

BUFFER = 1 << 20
"""Bytes of a column in the file that are read at a time."""
DENSE_BYTES, SHARE = 32 << 20, 64 << 10
"""Bytes of a column, and of each of its rows, that may be more than RATIO times as many as in the file."""


def opened(path: str) -> Iterator[Any]:
    """The schema of a file, and the numbers of its row groups and rows."""
    with pq.ParquetFile(path) as file:
        if file.metadata.serialized_size != _footer_bytes(Path(path)):  # signed; the library aborts the process
            raise ValueError("its columns are encrypted; write it without encryption")
        yield file.schema_arrow.serialize().to_pybytes()
        yield [file.num_row_groups, file.metadata.num_rows]


def rows(path: str, number: int, first: int, at_a_time: int, left_out: list[int], only_one: bool) -> Iterator[Any]:
    """From a row of a row group on, of which `at_a_time` are decoded together: streams of Arrow with one batch, a text
    for a row that is too large, True behind each group, and instead of the rest the place of a column that unpacks to
    too much, with its bytes and the rows that they are of. `only_one`: stops behind the first row, sends nothing."""
    with pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
        every = file.schema_arrow.names
        names = [name for place, name in enumerate(every) if place not in set(left_out)]
        for group in range(number, file.num_row_groups):
            begin, few = (first, at_a_time) if group == number else (0, BATCH)
            taken = dict.fromkeys(names, 0)
            allowed = _allowed(file.metadata.row_group(group), names, os.path.getsize(path))
            for end, piece in _pieces(file, group, names, begin, few):
                for name, column in zip(names, piece.columns, strict=True):
                    taken[name] += column.nbytes
                    if taken[name] > allowed[name] + SHARE * (end - begin):
                        yield [every.index(name), taken[name], end - begin]
                        return
                if only_one:
                    return
                yield from _sent(piece)
            yield True


def _pieces(file: Any, group: int, names: list[str], first: int, at_a_time: int) -> Iterator[tuple[int, Any]]:
    """The rows of a group from `first` on, in parts with the number of the last."""
    end = 0
    for batch in file.iter_batches(at_a_time, [group], names, use_threads=False):
        before, end = end, end + batch.num_rows
        if end > first:
            for piece in pieces(plainly(batch.select(names).slice(max(0, first - before)))):
                first += piece.num_rows
                yield first, piece


def _allowed(group: Any, names: list[str], size: int) -> dict[str, int]:
    """Column -> bytes that it may unpack to in any case; the footer may say anything of those in the file."""
    packed = dict.fromkeys(names, 0)
    for column in map(group.column, range(group.num_columns)):
        parts = column.path_in_schema.split(".")
        tops = accumulate(parts, "{}.{}".format)  # a name may have dots
        if found := [name for name in tops if name in packed]:
            packed[found[-1]] += column.total_compressed_size
    return {name: DENSE_BYTES + RATIO * min(size, held) for name, held in packed.items()}


def _sent(piece: Any) -> Iterator[Any]:
    light = piece.nbytes <= LIGHT_BYTES and not is_heavy(piece)
    for part in [piece] if light else (piece.slice(place, 1) for place in range(piece.num_rows)):
        if not light and is_heavy(part):
            yield str(too_large(part))
            continue
        with pa.BufferOutputStream() as sink:
            with pa.ipc.new_stream(sink, part.schema) as stream:
                stream.write_batch(part)
            yield sink.getvalue().to_pybytes()


def _footer_bytes(path: Path) -> int:
    """Bytes of a file's footer, as the file says."""
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        return int.from_bytes(file.read(4), "little")


def _limit(most: int) -> None:
    """Of memory, for this job."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main() -> None:
    """Behind its answers, a job ends with how it went: `{"error": None}`, or why; `{"memory": ...}` where that was the
    reason."""
    jobs, say = connect(watched=True)
    say(True)
    for path, memory, *part in jobs:
        _limit(memory)
        end: dict[str, Any] = {"error": None}
        try:
            for answer in rows(path, *part) if part else opened(path):
                say(answer)
        except MemoryError:
            end = {"memory": memory}
        except Exception as error:  # noqa: BLE001 - a damaged file raises anything
            end = {"error": clean(first_line(error))}
        say(end)


if __name__ == "__main__":
    main()
