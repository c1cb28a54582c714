"""The process that looks at footers of Parquet files before this one does: `python -m saccade.data.footer_worker`.

Lists with a path come in; for each the answer is 0, also for a file that is damaged in a way the library reports. A
footer at which the library ends the process, as C++ does, ends this one. With the number of a row group and the name
of a column beside the path, and the bytes of its largest page, the answer is how many bytes its longest row decodes to.
"""

from __future__ import annotations

import os
import resource

os.environ |= {"OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}  # the others reserve a gigabyte at once

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from saccade.workers.channel import connect

MEMORY, PAGES = 384 << 20, 5
"""Bytes that this process may take, and beside them times the largest page of a column."""
FOOTER, SMALL = 1 << 30, 1 << 16
"""Bytes that it may take for a footer; and bytes of a batch whose rows need no look."""


def look(path: str) -> int:
    """Everything in the footer that `saccade.data.columns` reads."""
    _limit(FOOTER)
    try:
        with pq.ParquetFile(path) as file:
            for group in map(file.metadata.row_group, range(file.num_row_groups)):
                for column in map(group.column, range(group.num_columns)):
                    column.to_dict()
    except Exception:  # noqa: BLE001 - the reader meets it too, and says so with the file
        return 0
    return 0


def decoded(path: str, group: int, column: str, page: int) -> int:
    """Bytes of the longest row of a column; -1 for more than the memory here."""
    _limit(MEMORY + PAGES * page)
    for rows in (64, 1):
        try:
            with pq.ParquetFile(path) as file:
                batches = file.iter_batches(rows, [group], [column], use_threads=False)
                return max(map(_longest, batches), default=0)
        except MemoryError:
            continue
        except Exception:  # noqa: BLE001 - the reader meets it too
            return 0
    return -1


def _longest(batch: pa.RecordBatch) -> int:
    """Bytes of the longest row of a batch of one column."""
    column = batch.column(0)
    if (size := batch.nbytes) <= SMALL:
        return size
    if any(
        test(column.type) for test in (types.is_string, types.is_binary, types.is_large_string, types.is_large_binary)
    ):
        return pc.call_function("max", [pc.call_function("binary_length", [column])]).as_py() or 0
    return max((column.slice(place, 1).nbytes for place in range(len(column))), default=0)


def _limit(most: int) -> None:
    """Of memory, for the next job."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main() -> None:
    jobs, say = connect()
    say(True)
    for path, *column in jobs:
        say(decoded(path, *column) if column else look(path))


if __name__ == "__main__":
    main()
