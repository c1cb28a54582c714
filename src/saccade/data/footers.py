"""Parquet files, looked at in a process that may end: the library ends it at some footers that are damaged, and some
columns take more memory than there is."""

from __future__ import annotations

import atexit
import os
from functools import lru_cache
from pathlib import Path

from saccade.data.parquet_pages import Pages
from saccade.workers.process import Worker, WorkerLost, WorkerPool

MODULE = "saccade.data.footer_worker"
"""Never imported here: it sets variables that are for its own process."""
TOO_LARGE = 1 << 30
LOOK_S, BYTES_A_S = 60.0, 4e6
"""Seconds for one footer on a busy machine, and the bytes of a column that a slow disk gives in one."""


def check_footer(path: Path) -> None:
    """ValueError for a file that must not be opened in this process."""
    try:
        _ask(str(path.resolve()))
    except WorkerLost as lost:
        raise ValueError(f"its footer is damaged, and ends the process that reads it: {lost}") from None


def decoded_bytes(path: Path, group: int, column: str, pages: Pages) -> int:
    """Bytes that a row of a column decodes to at most; TOO_LARGE where this cannot be known in the memory that its
    pages take."""
    try:
        found = _ask(str(path.resolve()), group, column, pages.largest, seconds=LOOK_S + pages.total / BYTES_A_S)
    except WorkerLost:
        return TOO_LARGE
    return found if found >= 0 else TOO_LARGE


def _ask(*job: str | int, seconds: float = LOOK_S) -> int:
    with _pool_of(os.getpid()).worker() as worker:
        worker.send(list(job))
        return int(worker.receive(seconds))


def _start() -> Worker:
    try:
        return Worker(MODULE)
    except WorkerLost as lost:
        raise OSError(f"the process that looks at footers did not start ({lost}); see: python -m {MODULE}") from None


@lru_cache(maxsize=1)
def _pool_of(pid: int) -> WorkerPool:
    """One per process: a child that was forked must not speak into its parent's pipes."""
    pool = WorkerPool(_start)
    atexit.register(lambda: pool.close() if os.getpid() == pid else None)
    return pool
