"""Room for what requests that are in flight at once hold: each takes several times its images and texts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

SENT_BYTES, COPIES = 400 << 20, 3
"""Bytes that all requests may take at once, or one alone, and the copies of an image's base64 in a request: the text,
and the body while it is made."""
LETTER = 12
"""Bytes of a letter of a text in a request and its body, at most: a control character is six letters of JSON."""
POLL_S = 0.05


class Room:
    """Room for bytes that several threads or tasks hold at once."""

    def __init__(self, most: int = SENT_BYTES) -> None:
        self._left, self._most, self._changed = most, most, threading.Condition()

    @contextmanager
    def of(self, size: int) -> Iterator[Callable[[int], None]]:
        """Waits until `size` bytes fit, or until nothing else is held; gives a function that says how many it became,
        fewer in most cases."""
        with self._changed:
            self._changed.wait_for(lambda: self._take(size))
        became = self._became(size)
        try:
            yield became
        finally:
            became(0)

    @asynccontextmanager
    async def soon(self, size: int) -> AsyncIterator[Callable[[int], None]]:
        """As `of`, for a task."""
        while not self._take(size):
            await asyncio.sleep(POLL_S)
        became = self._became(size)
        try:
            yield became
        finally:
            became(0)

    def _became(self, size: int) -> Callable[[int], None]:
        held = [size]

        def became(new: int) -> None:
            self._change(held[0] - new)
            held[0] = new

        return became

    def _take(self, size: int) -> bool:
        with self._changed:
            if fits := size <= self._left or self._left == self._most:
                self._left -= size
            return fits

    def _change(self, more: int) -> None:
        with self._changed:
            self._left += more
            self._changed.notify_all()
