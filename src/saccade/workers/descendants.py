"""Ends everything that a process started, also what it detached (see `channel.connect`, which makes it the parent of
orphans)."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil

WATCHER = "saccade-watch"
"""Name of the process that ends a worker with its parent (see `watcher`). It is spared: should the parent be killed
in here, nobody else would end the worker, which is stopped. It ends with its worker."""
ROUNDS_S = 5.0
"""For a tree that keeps growing while it is ended."""


def end_descendants(pid: int | None, mark: str | None = None) -> None:
    """Kills the descendants of a process that starts no more, until none is left: one that was about to start another
    leaves it to `pid`, where the next round finds it. Where that process has ended (None), or gave its children away,
    they are known by `mark`, a variable of the environment that it was started with."""
    until = time.monotonic() + ROUNDS_S
    while time.monotonic() < until:
        alive = list[psutil.Process]()
        with suppress(psutil.Error):
            alive += psutil.Process(pid).children(recursive=True) if pid is not None else ()
        alive = [one for one in {*alive, *_marked(mark)} if one.pid != pid and _runs(one)]
        if not alive:
            return
        for one in alive:
            with suppress(psutil.Error):
                one.kill()
        time.sleep(0.002)


def _marked(mark: str | None) -> list[psutil.Process]:
    """The processes that inherited a variable; only those of this user can be read."""
    found = []
    for pid in psutil.pids() if mark else ():
        with suppress(psutil.Error, OSError):
            if mark in (one := psutil.Process(pid)).environ():
                found.append(one)
    return found


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.name() != WATCHER
    except psutil.Error:
        return False
