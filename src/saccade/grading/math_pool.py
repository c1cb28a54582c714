"""math-verify behind a pool of processes that can be killed.

Symbolic algebra on a model's text may take for ever, eat the memory or crash, and no timeout inside the process stops
a long call into C. So each item runs in a worker process with a CPU timer and an address-space limit; one that dies or
hangs is replaced and costs that one item. Nothing starts until the first item or `warm_up`; any thread may ask.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from contextlib import suppress
from functools import lru_cache
from typing import Any

from saccade.grading.memory import remembered
from saccade.grading.verdict import Verdict
from saccade.workers.process import Worker, WorkerLost, WorkerPool, WorkerSilent

WALL_FACTOR = 20.0
"""How many times the CPU deadline an item may take on the clock, which only a starved or stopped worker does."""


GOLD_LOST = "math: gold lost"
"""Route of a verdict: the process ended over the gold."""


class WorkerFull(WorkerLost):
    """The worker ran out of memory."""


class MathPool:
    """Up to `workers` processes; further callers wait. `close` ends them; the pool may then be used again."""

    def __init__(self, workers: int = 2, deadline_s: float = 3.0, memory_mb: int = 1024) -> None:
        """`deadline_s`: CPU seconds for the gold and for the answer each; `WALL_FACTOR` times that on the clock."""
        if workers < 1 or deadline_s <= 0 or memory_mb < 256:
            raise ValueError(
                f"got workers {workers}, deadline_s {deadline_s}, memory_mb {memory_mb}; "
                "expected at least 1, more than 0, at least 256"
            )
        self._deadline_s, self._arguments = deadline_s, (str(deadline_s), str(memory_mb))
        self.workers = WorkerPool(self._start, workers)
        self._remembered = remembered(self._verify)  # replies in other words often have the same normal form
        self._endless: dict[str, Verdict] = {}
        """Golds that used up their CPU seconds, which every reply would cost again."""

    def verify(self, gold: str, answer: str) -> Verdict:
        """Whether math-verify holds `answer` equal to `gold`; right is None when the gold cannot be read, or when the
        machine was too busy to tell.

        Raises RuntimeError when a worker cannot be started at all.
        """
        return self._remembered(gold, answer)

    def _verify(self, gold: str, answer: str) -> Verdict:
        """One item. A worker that was lost by something else than the item's time is blamed on the items before it, so
        the item is tried again in another one."""
        while (endless := self._endless.get(gold)) is None:
            with self.workers.worker() as worker:
                used = worker.jobs > 0
                verdict, innocent = _ask(worker, gold, answer, self._deadline_s * WALL_FACTOR)
                if verdict.route == GOLD_LOST and worker.status == -signal.SIGPROF:
                    self._endless[gold] = verdict
            if not (used and innocent):
                return verdict
        return endless

    def _start(self) -> Worker:
        try:
            return Worker("saccade.grading.math_worker", *self._arguments)
        except WorkerLost as lost:
            raise RuntimeError(
                f"the process for math-verify did not start ({lost}); is math-verify installed? To see why, run: "
                f"python -m saccade.grading.math_worker {' '.join(self._arguments)}"
            ) from None

    def warm_up(self) -> None:
        """Starts a worker in the background, so that the first item need not wait for its imports. A worker that does
        not start is reported by the first item that needs one."""

        def start() -> None:
            with suppress(RuntimeError, OSError):
                self.workers.warm_up()

        threading.Thread(target=start, daemon=True).start()

    def close(self) -> None:
        """Ends the idle workers; the pool may then be used again."""
        self.workers.close()

    def __enter__(self) -> MathPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def shared() -> MathPool:
    """The pool of this process, closed when it ends."""
    return _pool_of(os.getpid())


@lru_cache(maxsize=1)
def _pool_of(pid: int) -> MathPool:
    """One per process: a child that was forked must not speak into its parent's pipes."""
    pool = MathPool()
    atexit.register(lambda: pool.close() if os.getpid() == pid else None)
    return pool


def _ask(worker: Worker, gold: str, answer: str, wall_s: float) -> tuple[Verdict, bool]:
    """The verdict, and whether the worker was lost by what may not be this item's doing."""
    stage = "gold"
    try:
        worker.send((gold, answer))
        if not _said(worker, wall_s).get("gold"):
            return Verdict(None, "math: gold", f"gold {gold[:80]!r} is no expression"), False
        stage = "answer"
        said = _said(worker, wall_s)
    except WorkerLost as lost:
        worker.kill()
        silent = isinstance(lost, WorkerSilent)  # without having used up its CPU seconds: the machine is at fault
        right = None if stage == "gold" or silent else False
        return Verdict(
            right, GOLD_LOST if stage == "gold" else "math: answer lost", str(lost)
        ), not silent and worker.status != -signal.SIGPROF
    right = bool(said.get("right"))
    return Verdict(right, "math: symbolic", "" if right else str(said.get("detail", "not equal"))), False


def _said(worker: Worker, wall_s: float) -> dict[str, Any]:
    said = worker.receive(wall_s)
    if said.get("full"):
        raise WorkerFull("out of memory")
    return said
