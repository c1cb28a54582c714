"""math-verify behind a pool of processes that can be killed.

Symbolic algebra on a model's text may take for ever, eat the memory or crash, and no timeout inside the process stops
a long call into C. So each item runs in a worker process with a CPU timer and an address-space limit; one that dies or
hangs is replaced and costs that one item. Nothing starts until the first item or `warm_up`; any thread may ask.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from functools import lru_cache
from typing import Any

from saccade.grading.memory import remembered
from saccade.grading.verdict import Verdict

START_S = 120.0
"""For a worker to import its libraries on a busy machine."""
WALL_FACTOR = 20.0
"""How many times the CPU deadline an item may take on the clock, which only a starved or stopped worker does."""
MAX_ITEMS = 2_000
"""Items after which a worker is replaced, since what algebra keeps in memory only grows."""


class WorkerLost(Exception):
    """The worker died or did not answer in time."""


class WorkerFull(WorkerLost):
    """The worker ran out of memory."""


class WorkerStarved(WorkerLost):
    """The worker had not even used up its CPU seconds: the machine is at fault, not the text."""


class MathPool:
    """Up to `workers` processes; further callers wait. `close` ends them; the pool may then be used again."""

    def __init__(self, workers: int = 2, deadline_s: float = 3.0, memory_mb: int = 1024) -> None:
        """`deadline_s`: CPU seconds for the gold and for the answer each; `WALL_FACTOR` times that on the clock."""
        if workers < 1 or deadline_s <= 0 or memory_mb < 256:
            raise ValueError(
                f"got workers {workers}, deadline_s {deadline_s}, memory_mb {memory_mb}; "
                "expected at least 1, more than 0, at least 256"
            )
        self._deadline_s, self._memory_mb = deadline_s, memory_mb
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._workers = workers
        self._remembered = remembered(self._verify)  # replies in other words often have the same normal form
        for _ in range(workers):
            self._idle.put(None)

    def verify(self, gold: str, answer: str) -> Verdict:
        """Whether math-verify holds `answer` equal to `gold`; right is None when the gold cannot be read, or when the
        machine was too busy to tell.

        Raises RuntimeError when a worker cannot be started at all.
        """
        return self._remembered(gold, answer)

    def _verify(self, gold: str, answer: str) -> Verdict:
        """One item. A worker that was lost by something else than the item's time is blamed on the items before it, so
        the item has a second try in a fresh one."""
        worker = self._idle.get()
        try:
            for last in (False, True):
                if worker is not None and (not worker.alive or worker.items >= MAX_ITEMS):
                    worker.kill()
                    worker = None
                if worker is None:
                    worker = _Worker(self._deadline_s, self._memory_mb)
                used = worker.items > 0
                verdict, innocent = _ask(worker, gold, answer, self._deadline_s * WALL_FACTOR)
                if not (used and innocent) or last:
                    break
                worker = None
            return verdict
        except BaseException:
            if worker is not None:
                worker.kill()
            worker = None
            raise
        finally:
            self._idle.put(worker if worker is not None and worker.alive else None)

    def warm_up(self) -> None:
        """Starts a worker in the background, so that the first item need not wait for its imports. A worker that does
        not start is reported by the first item that needs one."""
        threading.Thread(target=self._start_one, daemon=True).start()

    def _start_one(self) -> None:
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            return
        try:
            if worker is None or not worker.alive:
                worker = _Worker(self._deadline_s, self._memory_mb)
        except (RuntimeError, OSError):
            worker = None
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Ends the workers, once those at work have answered."""
        for worker in [self._idle.get() for _ in range(self._workers)]:
            if worker is not None:
                worker.kill()
            self._idle.put(None)

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


def _ask(worker: _Worker, gold: str, answer: str, wall_s: float) -> tuple[Verdict, bool]:
    """The verdict, and whether the worker was lost by what may not be this item's doing."""
    stage = "gold"
    try:
        worker.send({"gold": gold, "answer": answer})
        if not _said(worker, wall_s).get("gold"):
            return Verdict(None, "math: gold", f"gold {gold[:80]!r} is no expression"), False
        stage = "answer"
        said = _said(worker, wall_s)
    except WorkerLost as lost:
        worker.kill()
        ours = stage == "gold" or isinstance(lost, WorkerStarved)
        innocent = not isinstance(lost, WorkerStarved) and worker.status != -signal.SIGPROF
        return Verdict(None if ours else False, f"math: {stage} lost", str(lost)), innocent
    right = bool(said.get("right"))
    return Verdict(right, "math: symbolic", "" if right else str(said.get("detail", "not equal"))), False


def _said(worker: _Worker, wall_s: float) -> dict[str, Any]:
    said = worker.receive(wall_s)
    if said.get("full"):
        raise WorkerFull("out of memory")
    return said


class _Worker:
    """One process, spoken to in lines of JSON."""

    def __init__(self, cpu_s: float, memory_mb: int) -> None:
        command = [sys.executable, "-m", "saccade.grading.math_worker", str(cpu_s), str(memory_mb)]
        path = os.pathsep.join(p for p in sys.path if p)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # a Ctrl-C is for the parent, which closes the pool
        )
        self._read = b""
        self.items = 0
        """How many it was asked."""
        try:
            self.receive(START_S)
        except WorkerLost as lost:
            self.kill()
            raise RuntimeError(
                f"the process for math-verify did not start ({lost}); is math-verify installed? "
                f"To see why, run: {' '.join(command)}"
            ) from None

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """How it ended: minus the number of a signal, or its exit status; None while it runs."""
        return self._process.poll()

    def send(self, item: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self.items += 1
        try:
            self._process.stdin.write(json.dumps(item).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerLost("died between items") from None

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next line; WorkerLost when the process ends or the time is over."""
        assert self._process.stdout is not None
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._read:
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise WorkerStarved(f"no answer in {seconds:g} s")
                chunk = os.read(self._process.stdout.fileno(), 65536)
                if not chunk:
                    raise WorkerLost(f"ended with status {self._process.wait()}")
                self._read += chunk
        line, _, self._read = self._read.partition(b"\n")
        return json.loads(line)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # an item was still on its way
                    continue
