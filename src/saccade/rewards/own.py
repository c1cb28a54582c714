"""A user's own reward, in processes that can be killed.

If a function hangs, even in C code that holds the interpreter lock, its process is killed at the deadline, a new one is
started, and only that reply is masked. An exception also masks its reply. Neither ever scores 0.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from saccade.rewards.naming import check_options
from saccade.rewards.own_worker import Failure
from saccade.types import Completion, Sample, Score

log = logging.getLogger(__name__)

DEADLINE_S = 30.0
START_S = 300.0
"""Time limit for loading a user's file, which may load a model."""
GRACE_S = 5.0
"""How long after its deadline a coroutine's timeout may arrive before its process is killed."""
CONCURRENCY = 64
"""Number of concurrent coroutines."""

ScoringJob = tuple[Completion, Sample]


class WorkerLost(Exception):
    """The process ended or was killed."""


class OwnReward:
    """`path/to/file.py:function` with its options: `reward(completion, sample)`, or many at once with `score`."""

    def __init__(self, name: str, options: Mapping[str, Any], deadline_s: float, workers: int) -> None:
        """Starts a process and loads the file. ValueError when the file, the function or an option is invalid."""
        path, _, function = name.rpartition(":")
        file = Path(path).expanduser().resolve()
        if not file.is_file():
            raise ValueError(f"reward '{name}': there is no file {file}")
        self.name, self.options, self.deadline_s, self.workers = name, dict(options), deadline_s, workers
        self._pool = _pool_of(file, function, name)
        check_options(name, self._pool.signature, options)

    def __call__(self, completion: Completion, sample: Sample) -> Score:
        return self.score([(completion, sample)])[0]

    def score(self, jobs: Sequence[ScoringJob]) -> list[Score]:
        """The scores of all jobs, in order; coroutines run concurrently, functions in up to `workers` processes."""
        if not jobs:
            return []
        shares = 1 if self._pool.is_async else min(self.workers, len(jobs))
        parts = [range(start, len(jobs), shares) for start in range(shares)]
        with ThreadPoolExecutor(shares) as threads:
            answers = list(threads.map(lambda part: self._share([jobs[i] for i in part]), parts))
        found = {
            i: score for part, scores in zip(parts, answers, strict=True) for i, score in zip(part, scores, strict=True)
        }
        return [found[i] for i in range(len(jobs))]

    def _share(self, jobs: Sequence[ScoringJob]) -> list[Score]:
        """The scores of one process's jobs; the process is restarted whenever a job kills it."""
        scores: dict[int, Score] = {}
        while len(scores) < len(jobs):
            left = [i for i in range(len(jobs)) if i not in scores]
            try:
                worker = self._pool.take()
            except ValueError as error:  # the file was valid when the run began
                scores.update({i: self._masked((str(error), "")) for i in left})
                break
            try:
                self._ask(worker, jobs, left, scores)
            finally:
                self._pool.give_back(worker)
        return [scores[i] for i in range(len(jobs))]

    def _ask(self, worker: _Worker, jobs: Sequence[ScoringJob], left: Sequence[int], scores: dict[int, Score]) -> None:
        """Sends the remaining jobs and receives scores until all are done or the process is lost."""
        batch = {"jobs": [jobs[i] for i in left], "options": self.options}
        begun: list[int] = []
        try:
            worker.send(batch | {"deadline_s": self.deadline_s, "concurrency": CONCURRENCY})
        except WorkerLost as lost:
            scores[left[0]] = self._masked((str(lost), ""))
            return
        except Exception as error:  # noqa: BLE001 - a sample or an option that cannot be pickled
            scores.update({i: self._masked((f"{type(error).__name__}: {error}", "")) for i in left})
            return
        while any(i not in scores for i in left):
            try:
                kind, place, *result = worker.receive(self.deadline_s + (GRACE_S if self._pool.is_async else 0.0))
            except WorkerLost as lost:
                worker.kill()
                blamed = [i for i in begun if i not in scores] or left[:1]
                scores.update({i: self._masked((str(lost), "")) for i in blamed})
                return
            if kind == "begun":
                begun.append(left[place])
            else:
                value, failure = result
                scores[left[place]] = value if failure is None else self._masked(failure)

    def _masked(self, failure: Failure) -> Score:
        """A masked score; the first failure of each kind is logged with its traceback."""
        what, traceback = failure
        kind = what.split(":")[0]
        if self._pool.shows(kind):
            log.warning(
                "reward %s failed and masks its reply (shown once): %s\n%s", self.name, what, traceback.rstrip()
            )
        return Score(0.0, masked=what)


def load(
    name: str, options: Mapping[str, Any], deadline_s: float | None = None, workers: int | None = None
) -> OwnReward:
    """The reward of a user's file; ValueError when the file, the function or an option is invalid."""
    return OwnReward(name, options, DEADLINE_S if deadline_s is None else deadline_s, workers or 1)


# ----------------------------------------------------------------------------------------------------------- processes


class _Worker:
    """One process with the file loaded."""

    def __init__(self, file: Path, function: str, name: str) -> None:
        path = os.pathsep.join(p for p in sys.path if p)
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from saccade.rewards.own_worker import main; main()", str(file), function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C goes only to the parent, which ends its children
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._jobs = Connection(os.dup(self._process.stdin.fileno()), readable=False)
        self._answers = Connection(os.dup(self._process.stdout.fileno()), writable=False)
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self.greeting = self.receive(START_S)
        except WorkerLost as lost:
            self.kill()
            raise ValueError(f"reward '{name}': the process that loads {file} {lost}") from None
        if "refused" in self.greeting:
            self.kill()
            if self.greeting["traceback"]:
                log.warning("%s", self.greeting["traceback"].rstrip())
            raise ValueError(f"reward '{name}': {self.greeting['refused']}")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, batch: dict[str, Any]) -> None:
        try:
            self._jobs.send(batch)
        except OSError:
            raise WorkerLost("its process died between replies") from None

    def receive(self, seconds: float) -> Any:
        """The next message. WorkerLost when the process ends or the time limit is reached; the caller then kills it."""
        until = time.monotonic() + seconds
        try:
            if not self._answers.poll(max(0.0, until - time.monotonic())):
                raise WorkerLost(f"no answer in {seconds:g} s")
            return self._answers.recv()
        except (EOFError, OSError):
            self.kill()
            raise WorkerLost(f"its process ended with status {self._process.returncode}") from None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._jobs.close()
        self._answers.close()


class _WorkerPool:
    """The processes of one function: idle ones are reused, further ones are started on demand."""

    def __init__(self, file: Path, function: str, name: str) -> None:
        self._start = lambda: _Worker(file, function, name)
        self._lock = threading.Lock()
        self._shown: set[str] = set()
        first = self._start()
        self._idle = [first]
        self.is_async: bool = first.greeting["is_async"]
        self.signature = inspect.Signature(
            [
                inspect.Parameter(key, inspect._ParameterKind[kind], default=None if given else inspect.Parameter.empty)
                for key, given, kind in first.greeting["ready"]
            ]
        )

    def shows(self, kind: str) -> bool:
        """True once for each kind of failure, however often rubrics are rebuilt."""
        with self._lock:
            new = kind not in self._shown
            self._shown.add(kind)
        return new

    def take(self) -> _Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    return worker
        return self._start()

    def give_back(self, worker: _Worker) -> None:
        if worker.alive:
            with self._lock:
                self._idle.append(worker)

    def close(self) -> None:
        with self._lock:
            for worker in self._idle:
                worker.kill()
            self._idle.clear()


_POOLS: dict[tuple[int, Path, str, int], _WorkerPool] = {}
"""By process, file, function and modification time: rubrics are rebuilt at every step, but a file's loaded state must
persist through the run."""
_POOLS_LOCK = threading.Lock()


def _pool_of(file: Path, function: str, name: str) -> _WorkerPool:
    key = (os.getpid(), file, function, file.stat().st_mtime_ns)
    with _POOLS_LOCK:
        if key not in _POOLS:
            _POOLS[key] = _WorkerPool(file, function, name)
        return _POOLS[key]


@atexit.register
def close_all() -> None:
    """Ends the processes of all own rewards; they restart on demand."""
    with _POOLS_LOCK:
        for (pid, *_), pool in _POOLS.items():
            if pid == os.getpid():
                pool.close()
