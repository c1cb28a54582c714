"""Rows of Parquet files. A process with a bound of memory reads them, see `parquet_worker`: what it cannot hold costs a
column, and where it ends the file."""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pyarrow as pa

from saccade.data.arrow_rows import labels_of, rows_of
from saccade.data.columns import BATCH, holds_bytes
from saccade.data.records import PartlyRead, Placed
from saccade.data.unpacked import Packed
from saccade.faults import first_line, listed
from saccade.workers.process import Worker, WorkerLost, WorkerPool

log = logging.getLogger(__name__)

MODULE = "saccade.data.parquet_worker"
"""Never imported here: it sets variables that are for its own process."""
MEMORY, TIMES = 384 << 20, 5
"""Bytes that its process may take for a file, and beside them times those of the file."""
MOST_BYTES = 256 << 20
"""Of one row, or of a schema."""
MOST_TRIED, MOST_DENSE = 64, 16
"""Columns that are tried one by one where all together take too much memory; and those that unpack to far more than
data needs, behind each of which a row group is read from its beginning."""
LOOK_S, BYTES_A_S = 60.0, 4e6
"""Seconds for the next rows on a busy machine, and bytes of the file that a slow disk gives in one."""


class _TooMuch(Exception):
    """More than the memory."""


def parquet_rows(path: Path, packed: Packed | None = None) -> Iterator[Placed]:
    """Rows of a Parquet file, numbered from 1. Columns that unpack to too much are left out with a warning. `packed`
    counts the memory that rows of earlier files took."""
    number, packed = count(1), packed or Packed()
    try:
        file = _File(path)
        packed.size += file.size
        for row in file.rows(packed):
            yield f"{path.name}:{next(number)}", row
    except (pa.ArrowException, ValueError) as error:
        yield f"{path.name}:{next(number)}", ValueError(f"not a Parquet file that can be read ({first_line(error)})")


def count_parquet(path: Path) -> int:
    """The number of rows that a file says it has. ValueError for one that cannot be read."""
    return _File(path).count


class _File:
    """A Parquet file, read by a process of its own."""

    def __init__(self, path: Path) -> None:
        self._path, self.size = path, path.stat().st_size
        self._memory = MEMORY + TIMES * self.size
        schema, (self._groups, self.count) = self._answers()
        self._schema = pa.ipc.read_schema(pa.py_buffer(schema))
        self._labels, self._bombs = labels_of(self._schema), dict[str, str]()
        """Column that is left out -> why."""
        self._left_s = LOOK_S
        """Seconds for finding such columns one by one."""
        if len(set(names := self._schema.names)) < len(names):
            raise ValueError(f"the columns are {listed(names)}; expected a different name for each")

    def rows(self, packed: Packed) -> Iterator[Any]:
        for batch in self._batches():
            pictures = [why for name, why in self._bombs.items() if holds_bytes(self._schema.field(name).type)]
            for row in [ValueError(batch)] if isinstance(batch, str) else rows_of(batch, packed, self._labels):
                found = PartlyRead(row, self._bombs) if self._bombs and isinstance(row, dict) else row
                yield ValueError(pictures[0]) if pictures else found

    def _batches(self) -> Iterator[Any]:
        """The batches of all row groups, and the error in place of a row that is too large."""
        group, first, few, dense = 0, 0, False, 0
        while True:
            try:
                for answer in self._answers(group, first, 1 if few else BATCH, self._left_out(), False):
                    if isinstance(answer, bytes):
                        yield (batch := pa.ipc.open_stream(answer).read_next_batch())
                        first += batch.num_rows
                    elif isinstance(answer, str):
                        yield answer
                        first += 1
                    elif answer is True:
                        group, first, few = group + 1, 0, False
                    else:
                        place, held, rows = answer
                        self._leave_out(self._schema.names[place], f"unpacks to {held:,} bytes in {rows:,} rows")
                        if (dense := dense + 1) > MOST_DENSE:
                            raise ValueError(
                                f"more than {MOST_DENSE} of its columns unpack to far more than data needs"
                            )
                        break
                else:
                    return
            except _TooMuch:
                if few:
                    self._leave_out_large(group, first)
                few = not few  # in a new process

    def _leave_out_large(self, group: int, first: int) -> None:
        """Leaves out the columns of a row that cannot be read beside those before them."""
        names, together, before = self._schema.names, list[int](), len(self._bombs)
        for place in [place for place, name in enumerate(names) if name not in self._bombs][:MOST_TRIED]:
            began, others = time.monotonic(), [other for other in range(len(names)) if other not in (*together, place)]
            try:
                list(self._answers(group, first, 1, others, True))
                together.append(place)
            except _TooMuch:
                self._leave_out(names[place], f"takes more than {self._memory >> 20:,} MB to unpack")
            self._left_s -= time.monotonic() - began
            if self._left_s < 0:
                break
        if len(self._bombs) == before or self._left_s < 0:
            raise ValueError(
                f"its columns take together more than {self._memory >> 20:,} MB to unpack; write it again in smaller "
                "row groups"
            )

    def _leave_out(self, name: str, why: str) -> None:
        said = f"column {name!r} {why}, from a file of {self.size:,}, which is more than data needs"
        if len(self._bombs) + 1 == len(self._schema.names):
            raise ValueError(f"{said}; write it again with smaller values")
        log.warning("%s: %s; the column is not read", self._path, said)
        self._bombs[name] = said

    def _left_out(self) -> list[int]:
        return [place for place, name in enumerate(self._schema.names) if name in self._bombs]

    def _answers(self, *part: Any) -> Iterator[Any]:
        """What the process answers. _TooMuch when the memory does not suffice; ValueError when the file is damaged;
        OSError when the process ends for another reason."""
        try:
            with _pool_of(os.getpid()).worker() as worker:
                worker.send([str(self._path.resolve()), self._memory, *part])
                while not isinstance(answer := self._answer(worker), dict):
                    yield answer
                if "memory" in answer:
                    raise _TooMuch
        except WorkerLost as lost:
            raise ValueError(f"it is damaged, and ends the process that reads it: {lost}") from None
        if answer["error"]:
            raise ValueError(answer["error"])

    def _answer(self, worker: Worker) -> Any:
        try:
            return worker.receive(LOOK_S + self.size / BYTES_A_S)
        except WorkerLost:
            if worker.status == -SIGKILL:
                raise OSError(
                    f"{self._path}: the process that reads it was killed; run the same command again"
                ) from None
            raise


def _start() -> Worker:
    try:
        return Worker(MODULE, most_bytes=MOST_BYTES)
    except WorkerLost as lost:
        raise OSError(f"the process that reads Parquet did not start ({lost}); see: python -m {MODULE}") from None


@lru_cache(maxsize=1)
def _pool_of(pid: int) -> WorkerPool:
    """One per process: a child that was forked must not speak into its parent's pipes."""
    pool = WorkerPool(_start)
    atexit.register(lambda: pool.close() if os.getpid() == pid else None)
    return pool
