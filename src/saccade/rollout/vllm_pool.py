"""The servers of a run: which one takes the next group, and what happens when one does not answer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from saccade.endpoint.errors import EndpointError
from saccade.endpoint.plain import PlainClient

log = logging.getLogger(__name__)

T = TypeVar("T")

PAUSED = "engine_paused"
"""Code of vLLM's answer 503 while weights are updated; the request is to be repeated."""
FIRST_WAIT_S, LONGEST_WAIT_S, PAUSED_WAIT_S = 0.5, 10.0, 0.2


@dataclass(eq=False)
class VllmServer:
    """One server."""

    client: PlainClient
    model: str = ""
    """Name under which it serves the model."""
    context: int = 0
    """Tokens of a prompt and its reply, at most."""
    holds: str | None = None
    """Label of the weights that it has; None while that is unknown."""
    outstanding: int = 0
    """Tokens that it is to read and write for groups in flight."""
    groups: int = 0
    """Groups in flight."""
    failures: int = 0
    """In a row."""
    last_error: str = ""
    rests_until: float = 0.0
    """Not asked before this time (monotonic clock)."""
    updating: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return self.client.url

    def failed(self, error: Exception) -> None:
        """Rest for a while, longer each time; its weights are no longer known, since it may be restarted."""
        wait_s = min(FIRST_WAIT_S * 2**self.failures, LONGEST_WAIT_S)
        if not self.failures:
            log.warning("%s does not answer (%s); its groups are sent again", self.url, error)
        self.failures += 1
        self.last_error = str(error)
        self.holds, self.rests_until = None, time.monotonic() + wait_s


def is_paused(error: EndpointError) -> bool:
    """Whether the server only asks to be asked again."""
    return error.status == 503 and PAUSED in error.body


def is_gone(error: EndpointError) -> bool:
    """Whether another attempt or another server may do better: no answer, an overloaded or a broken server."""
    status = error.status
    return status is None or 200 < status < 400 or status in (408, 425, 429) or status >= 500  # 204: of a proxy


class Pool:
    """Gives each group to the server with the fewest outstanding tokens. Thread-safe."""

    def __init__(self, servers: Sequence[VllmServer], groups_at_once: int) -> None:
        self.servers = tuple(servers)
        self.groups_at_once = groups_at_once
        self._changed = threading.Condition()
        self._stopped: Exception | None = None

    @contextmanager
    def server(self, tokens: int, until: float) -> Iterator[VllmServer]:
        """The least loaded server that is not resting, charged with `tokens` within the block. TimeoutError when there
        is none until then and for every call after that, RuntimeError when the pool was stopped."""
        with self._changed:
            while (found := self._least_loaded()) is None or time.monotonic() >= until:
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"none of {', '.join(server.url for server in self.servers)} answers")
                self._changed.wait(min(left, 0.1))
            found.outstanding += tokens
            found.groups += 1
        try:
            yield found
        finally:
            with self._changed:
                found.outstanding -= tokens
                found.groups -= 1
                self._changed.notify_all()

    @property
    def last_error(self) -> str:
        """Of the server that failed most."""
        return max(self.servers, key=lambda server: server.failures).last_error

    def _least_loaded(self) -> VllmServer | None:
        if self._stopped is not None:
            raise RuntimeError("stopped") from self._stopped
        now = time.monotonic()
        ready = [s for s in self.servers if s.rests_until <= now and s.groups < self.groups_at_once]
        return min(ready, key=lambda server: server.outstanding, default=None)

    def map(self, work: Callable[[T], Any], jobs: Sequence[T], threads: int) -> list[Any]:
        """`work` of every job, in order; the first error stops the others and is raised. The threads are daemons, so
        that a request that hangs never keeps a process from ending."""
        results: list[Any] = [None] * len(jobs)
        waiting = iter(range(len(jobs)))
        errors: list[BaseException] = []
        lock, ended = threading.Lock(), threading.Semaphore(0)

        def run() -> None:
            try:
                while True:
                    with lock:
                        place = None if errors else next(waiting, None)
                    if place is None:
                        return
                    results[place] = work(jobs[place])
            except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
                errors.append(error)
            finally:
                ended.release()

        self._stopped = None
        crew = [threading.Thread(target=run, name="saccade-vllm", daemon=True) for _ in range(min(threads, len(jobs)))]
        for one in crew:
            one.start()
        try:
            for _ in crew:
                ended.acquire()
                if errors:
                    raise errors[0]
        except BaseException as error:
            errors.append(error)
            self._stopped = RuntimeError("another group failed")
            raise
        return results
