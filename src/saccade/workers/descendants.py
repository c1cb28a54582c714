"""Ends everything that a process started, also what it detached (see `channel.connect`, which makes it the parent of
orphans)."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil

ROUNDS_S = 5.0
"""For a tree that keeps growing while it is ended."""


def end_descendants(pid: int) -> None:
    """Kills the descendants of a process that starts no more, until none is left: one that was about to start another
    leaves it to `pid`, where the next round finds it."""
    until = time.monotonic() + ROUNDS_S
    while time.monotonic() < until:
        alive = []
        with suppress(psutil.Error):
            alive = [one for one in psutil.Process(pid).children(recursive=True) if _runs(one)]
        if not alive:
            return
        for one in alive:
            with suppress(psutil.Error):
                one.kill()
        time.sleep(0.002)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
