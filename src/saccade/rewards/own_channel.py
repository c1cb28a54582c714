"""Messages of the process of a user's reward: JSON in frames, so that nothing which arrives can hang or mislead us.

A user's code may write to any descriptor, return values of any class, and raise errors of any size. So a frame has a
mark, a length with a limit and a deadline for all of it, and holds only numbers and cut, printable texts.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import struct
import time
from collections.abc import Callable
from typing import Any

MARK = b"SACC"
LARGEST = 1 << 20
"""Bytes of a frame."""
LONGEST = 500
"""Characters of a message, a reason or the text of an exception."""
LONGEST_TRACEBACK = 4_000
SLICE_S = 0.25
"""How often the life of the process is checked while nothing arrives."""


class BrokenChannel(Exception):
    """Something else than a frame arrived, or the writer ended."""


def clean(text: Any, longest: int = LONGEST) -> str:
    """Any object as a text that can be written anywhere: valid UTF-8, cut in the middle, never an error."""
    try:
        found = text if type(text) is str else str(text)
    except BaseException as error:  # noqa: BLE001 - a user's own __str__
        found = f"(its text cannot be read: {type(error).__name__})"
    found = found.encode("utf-8", "replace").decode("utf-8", "replace")
    half = longest // 2
    return found if len(found) <= longest else f"{found[:half]} ... {found[-half:]}"


def write_frame(descriptor: int, message: Any) -> None:
    """Sends a message of plain values."""
    body = json.dumps(message).encode()
    data = memoryview(MARK + struct.pack(">I", len(body)) + body)
    while data:
        data = data[os.write(descriptor, data) :]


def send_object(descriptor: int, value: Any, seconds: float) -> None:
    """Sends an object to the process. TimeoutError when it does not take all of it in time; OSError when it
    ended. Exceptions of pickling are the caller's."""
    body = pickle.dumps(value)
    data = memoryview(struct.pack(">Q", len(body)) + body)
    until = time.monotonic() + seconds
    while data:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if select.select([], [descriptor], [], left)[1]:
            data = data[os.write(descriptor, data[: select.PIPE_BUF]) :]


def receive_object(descriptor: int) -> Any:
    """The other end of `send_object`, in the process. EOFError when the parent ended."""
    (length,) = struct.unpack(">Q", _exactly(descriptor, 8))
    return pickle.loads(_exactly(descriptor, length))  # written by our own parent process only


def _exactly(descriptor: int, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        chunk = os.read(descriptor, min(count - len(found), 1 << 20))
        if not chunk:
            raise EOFError
        found += chunk
    return bytes(found)


class FrameReader:
    """Reads frames from a descriptor that anybody may have written to."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor, self._buffer = descriptor, bytearray()

    def read(self, seconds: float, alive: Callable[[], bool]) -> Any:
        """The next message. TimeoutError when it is not complete in time; BrokenChannel when the process ended, which
        may be before its children close the descriptor, or wrote something else."""
        until = time.monotonic() + seconds
        while True:
            if (found := self._next()) is not None:
                return found[0]
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            was_alive = alive()
            if select.select([self._descriptor], [], [], min(left, SLICE_S))[0]:
                chunk = os.read(self._descriptor, 1 << 16)
                if not chunk:
                    raise BrokenChannel
                self._buffer += chunk
            elif not was_alive:
                raise BrokenChannel

    def close(self) -> None:
        os.close(self._descriptor)

    def _next(self) -> tuple[Any] | None:
        """A complete message, if there is one."""
        head = len(MARK) + 4
        if not MARK.startswith(bytes(self._buffer[: len(MARK)])):
            raise BrokenChannel
        if len(self._buffer) < head:
            return None
        (length,) = struct.unpack(">I", self._buffer[len(MARK) : head])
        if length > LARGEST:
            raise BrokenChannel
        if len(self._buffer) < head + length:
            return None
        body = bytes(self._buffer[head : head + length])
        del self._buffer[: head + length]
        try:
            return (json.loads(body),)
        except (ValueError, RecursionError):
            raise BrokenChannel from None
