"""Worker processes, as their parent sees them. Why they are not those of a library: docs/design.md."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from saccade.workers.channel import BrokenChannel, FrameReader, send_object
from saccade.workers.descendants import end_descendants

START_S = 300.0
"""Time limit for a worker's imports on a busy machine, which may load a model."""
SEND_S = 60.0
"""Time limit for handing a job to an idle worker."""


class WorkerLost(Exception):
    """The process ended, or wrote something else than its messages."""


class WorkerSilent(WorkerLost):
    """The process did not answer in time."""


class Worker:
    """`python -m module argument ...` in a session of its own. It must `connect` and send a greeting."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        printed: Callable[[IO[bytes]], None] | None = None,
        first: Any = None,
        most_bytes: int = 0,
    ) -> None:
        """Sends `first`, if given, and waits for the greeting. `printed` reads, in a thread, what the process prints,
        which is dropped without it; `most_bytes`: of a message of bytes, none without it. WorkerLost when there is no
        greeting."""
        # -P: else a file of the working directory, which may be one of data, is imported in place of a module
        self.command = [sys.executable, "-P", "-m", module, *arguments]
        self._mark = f"SACCADE_WORKER_{secrets.token_hex(8)}"
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if printed else subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), self._mark: "1"},
            start_new_session=True,  # Ctrl-C goes only to the parent, which ends it with all that it started
        )
        assert self._process.stdin and self._process.stdout
        self._jobs = os.dup(self._process.stdin.fileno())
        os.set_blocking(self._jobs, False)
        self._answers = FrameReader(os.dup(self._process.stdout.fileno()), most_bytes)
        self._process.stdin.close()
        self._process.stdout.close()
        if printed:
            threading.Thread(target=printed, args=(self._process.stderr,), daemon=True).start()
        self._closed = False
        self.jobs = 0
        """How many it was given."""
        try:
            if first is not None:
                with suppress(WorkerLost):  # how it ended is known below
                    self.send(first)
                self.jobs = 0
            self.greeting = self.receive(START_S)
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._closed and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """How it ended: minus the number of a signal, or its exit status; None while it runs."""
        return self._process.poll()

    def send(self, job: Any) -> None:
        """WorkerLost when the process cannot take it; any other exception is a job that cannot be pickled."""
        self.jobs += 1
        try:
            send_object(self._jobs, job, SEND_S)
        except TimeoutError:
            raise WorkerSilent(f"its process took no further jobs for {SEND_S:g} s") from None
        except OSError:
            raise WorkerLost("its process died between jobs") from None

    def receive(self, seconds: float) -> Any:
        """The next message of the process. The caller kills a worker that is lost."""
        try:
            return self._answers.read(seconds, lambda: self._process.poll() is None)
        except TimeoutError:
            raise WorkerSilent(f"no answer in {seconds:g} s") from None
        except (BrokenChannel, OSError):
            with suppress(subprocess.TimeoutExpired):
                raise WorkerLost(f"its process ended with status {self._process.wait(1.0)}") from None
            raise WorkerLost("its process wrote something else than its messages") from None

    def kill(self) -> None:
        """Ends the process and everything that it started, in its session or in sessions of their own."""
        runs = self._process.poll() is None
        if runs:  # it starts no more while it is stopped
            self._process.send_signal(signal.SIGSTOP)
        end_descendants(self._process.pid if runs else None, self._mark)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        if not self._closed:
            self._closed = True
            os.close(self._jobs)
            self._answers.close()


class WorkerPool:
    """Idle workers are used again, others start on demand, at most `most` at once; any thread may ask."""

    def __init__(self, start: Callable[[], Worker], most: int = 1 << 16) -> None:
        self._start, self._slots = start, threading.Semaphore(most)
        self._lock, self.idle = threading.Lock(), list[Worker]()

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """A worker for some jobs; it is killed when they raise. Exceptions of starting one are the caller's."""
        with self._slots:
            worker = self._take() or self._start()
            try:
                yield worker
            except BaseException:
                worker.kill()
                raise
            finally:
                if worker.alive:
                    with self._lock:
                        self.idle.append(worker)

    def warm_up(self) -> None:
        """Has a worker ready."""
        with self.worker():
            return

    def close(self) -> None:
        """Ends the idle workers; the pool may then be used again."""
        while (worker := self._take()) is not None:
            worker.kill()

    def _take(self) -> Worker | None:
        with self._lock:
            while self.idle:
                worker = self.idle.pop()
                if worker.alive:
                    return worker
                worker.kill()  # closes its pipes
        return None
