"""Prefetching: decodes the images of the next steps while the model processes this one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """`prefetch(step)` is `fn(step)`, computed ahead by one thread when steps are requested in order.

    An exception of `fn` is raised by the call for its step. Close it, or use it in a `with`.
    """

    def __init__(self, fn: Callable[[int], T], depth: int = 1, stop: int | None = None) -> None:
        """`depth`: steps computed ahead, at least 1. `stop`: the first step that is never requested."""
        if depth < 1:
            raise ValueError(f"got depth {depth}, expected 1 or more")
        self._fn, self._depth, self._stop = fn, depth, stop
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._futures: dict[int, Future[T]] = {}

    def __call__(self, step: int) -> T:
        ahead = step + 1 + self._depth
        steps = range(step, ahead if self._stop is None else max(step + 1, min(ahead, self._stop)))
        for other in [s for s in self._futures if s not in steps]:  # requested out of order
            self._futures.pop(other).cancel()
        for each in steps:
            if each not in self._futures:
                self._futures[each] = self._pool.submit(self._fn, each)
        return self._futures.pop(step).result()

    def close(self) -> None:
        """Waits for the running computation and drops the rest."""
        self._futures.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Prefetch[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
