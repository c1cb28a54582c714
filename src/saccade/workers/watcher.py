"""Ends a worker whose parent was killed while the user's code hangs, which can then notice nothing itself."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from contextlib import suppress

from saccade.workers.descendants import WATCHER, end_descendants

GRACE_S = 1.0
"""An idle worker ends by itself in this time."""
MOST_DESCRIPTORS = 1 << 12
_NAME = 15
"""PR_SET_NAME of Linux."""


def end_with_parent(jobs: int) -> None:
    """Starts a small process that ends this one, and everything in its group or below it, when the other end of the
    pipe `jobs` is closed. It is nobody's child that the user's code could wait for, and ends with this process.

    Where the kernel has no pidfd (before Linux 5.3, macOS) there is none.
    """
    worker = os.getpid()
    try:
        handle = os.pidfd_open(worker)
    except (AttributeError, OSError):
        return
    if (child := os.fork()) == 0:
        try:
            if os.fork() == 0:
                _watch(worker, handle, jobs)
        finally:
            os._exit(0)
    os.close(handle)
    os.waitpid(child, 0)


def _watch(worker: int, handle: int, jobs: int) -> None:
    low, high = sorted((handle, jobs))
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_NAME, WATCHER.encode(), 0, 0, 0)  # Linux
    for first, last in ((0, low), (low + 1, high), (high + 1, MOST_DESCRIPTORS)):
        os.closerange(first, last)
    ended = select.poll()
    ended.register(handle, select.POLLIN)
    ended.register(jobs, 0)  # only that it was closed
    if handle in dict(ended.poll()):
        return
    time.sleep(GRACE_S)
    ended.unregister(jobs)
    if ended.poll(0):
        return
    os.kill(worker, signal.SIGSTOP)  # it starts no more
    with suppress(OSError):
        end_descendants(worker)
    os.killpg(worker, signal.SIGKILL)
