"""Messages of a worker process: JSON in frames, so that nothing which arrives can hang or mislead its parent.

What runs there may write to any descriptor, return values of any class, and raise errors of any size. So a frame has a
mark, a length with a limit and a deadline for all of it, and holds only numbers and cut, printable texts. Workers that
run only our own code may send bytes too.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pickle
import resource
import select
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from saccade.workers.watcher import end_with_parent

MARK, BYTES_MARK = b"SACC", b"SACB"
_SUBREAPER = 36
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


def connect(watched: bool = False) -> tuple[Iterator[Any], Callable[[Any], None]]:
    """The process's own end: the jobs until its parent ends, and a function that sends a message of plain values, or of
    bytes. With `watched` it is ended when its parent was killed in the middle of a job.

    From then on nothing that is printed can be taken for a message, and the signals that schedulers send to all
    processes of a job are left to the parent, which finishes its step first.
    """
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: None)
    jobs, answers, me = _out_of_the_way(0), _out_of_the_way(1), os.getpid()
    if watched:
        end_with_parent(jobs)
    with suppress(OSError, AttributeError):  # what the user's code detaches stays a child, so that it can be ended
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)  # Linux
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

    def say(message: Any) -> None:
        if os.getpid() != me:  # a fork of a user's code that came back to ours
            os._exit(1)
        _write_frame(answers, message)

    return _received(jobs), say


def _out_of_the_way(descriptor: int) -> int:
    """A copy with a high number: code that writes to descriptors by number takes the low ones."""
    highest = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, min(700, highest - 50) if highest > 100 else 0)


def _write_frame(descriptor: int, message: Any) -> None:
    mark, body = (BYTES_MARK, message) if isinstance(message, bytes) else (MARK, json.dumps(message).encode())
    for data in (memoryview(mark + struct.pack(">I", len(body))), memoryview(body)):
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
        if _is_ready(descriptor, select.POLLOUT, left):
            data = data[os.write(descriptor, data[: select.PIPE_BUF]) :]


def _is_ready(descriptor: int, event: int, seconds: float) -> bool:
    """Waits until the descriptor can be read or written, or its other end is closed. `select.select` refuses numbers
    above 1023, which a process with many connections has."""
    waiting = select.poll()
    waiting.register(descriptor, event)
    return bool(waiting.poll(seconds * 1000))


def _received(descriptor: int) -> Iterator[Any]:
    """The other end of `send_object`, in the process."""
    try:
        while True:
            (length,) = struct.unpack(">Q", _exactly(descriptor, 8))
            yield pickle.loads(_exactly(descriptor, length))  # written by our own parent process only
    except EOFError:
        return


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

    def __init__(self, descriptor: int, most_bytes: int = 0) -> None:
        """`most_bytes`: of a message of bytes; such are refused without it."""
        os.set_blocking(descriptor, False)
        self._descriptor, self._buffer, self._most_bytes = descriptor, bytearray(), most_bytes

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
            if _is_ready(self._descriptor, select.POLLIN, min(left, SLICE_S)):
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
        head, mark = len(MARK) + 4, bytes(self._buffer[: len(MARK)])
        if not MARK.startswith(mark) and not (self._most_bytes and BYTES_MARK.startswith(mark)):
            raise BrokenChannel
        if len(self._buffer) < head:
            return None
        (length,) = struct.unpack(">I", self._buffer[len(MARK) : head])
        if length > (self._most_bytes if mark == BYTES_MARK else LARGEST):
            raise BrokenChannel
        if len(self._buffer) < head + length:
            return None
        body = bytes(memoryview(self._buffer)[head : head + length])
        del self._buffer[: head + length]
        if mark == BYTES_MARK:
            return (body,)
        try:
            return (json.loads(body),)
        except (ValueError, RecursionError):
            raise BrokenChannel from None


def peak_memory_mb() -> float:
    """The most memory this process ever had resident, in 10^6 bytes; `ru_maxrss` would begin with the parent's."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):  # macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
