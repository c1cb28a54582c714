"""Stopping a run by a signal: the step is finished or abandoned in time, its state saved, the way on said.

The program listens (`with stop.listening()`), not the library: `train` without a `Stop` leaves signals alone.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import Any

GRACE_S = 20.0
"""A step whose update has not begun after this time is abandoned; nothing of it is kept."""
ASKING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU") if hasattr(signal, name)
)
"""Signals that ask a run to stop: SIGHUP when its terminal or connection is closed, SIGUSR1 and SIGXCPU when schedulers
warn."""
AGAIN_S = 1.0
"""Seconds after which a request to stop is repeated: destructors, callbacks and some libraries swallow what a handler
raises."""
_LOOK_S = 0.2
"""Seconds between two looks at whether a stop was asked for while something is waited for."""
_SHOW_CURSOR = b"\x1b[?25h"


_PUT_OFF: list[RunStopped] = []
"""A stop that was asked for while a module was loaded; raised by the timer, or before other handlers take its place."""


class StepAbandoned(BaseException):
    """Raised in the main thread where a step is abandoned. No handler of ordinary errors catches it."""


class RunStopped(SystemExit):
    """A run that was stopped by a signal and can be continued: status 128 and the number of the signal."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(128 + number)
        self.message = message

    def __str__(self) -> str:
        return self.message


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """For work that keeps what is done and resumes when it is run again: the signals of ASKING raise RunStopped
    with `message` in the block, the second one ends the process at once."""
    asked: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        if asked:
            _again(number)
            return
        asked.append(number)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
        again(number, frame)

    def again(number: int, frame: FrameType | None) -> None:
        """Unless the stop is on its way already: closing things must not be disturbed."""
        if isinstance(sys.exc_info()[1], RunStopped):
            return
        stopped = RunStopped(asked[0], message)
        if not _is_importing(frame):
            raise stopped
        _PUT_OFF[:] = [stopped]

    with handling({**dict.fromkeys(ASKING, handler), signal.SIGALRM: again}):
        try:
            yield
        finally:
            if asked:
                signal.setitimer(signal.ITIMER_REAL, 0)
                _PUT_OFF.clear()


class Stop:
    """A request to stop, and whether the step in progress may be abandoned.

    The first signal sets `signal`; the loop looks at it between steps. After `grace_s` the step is abandoned, unless it
    is `held`: its update has begun to move the weights, so it is finished. A second SIGINT or SIGTERM ends the process
    at once.
    """

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self.grace_s = grace_s
        self.signal: int | None = None
        self._until = math.inf
        self._held = False

    def ask(self, number: int) -> None:
        """By a signal that this process or, between steps, another one got; 0 for none."""
        if number and self.signal is None:
            self._until = time.monotonic() + self.grace_s
        self.signal = number or None

    def hold(self) -> None:
        """From here on the step must be finished."""
        self._held = True

    def release(self) -> None:
        """The step may be abandoned again."""
        self._held = False

    def end(self) -> None:
        """Nothing is abandoned any more."""
        self._held = True
        if self.signal is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def wait_for(self, future: Future[Any]) -> bool:
        """Until `future` is done, but after a stop, also one that comes meanwhile, no longer than `grace_s`; whether it
        is done."""
        while not future.done() and time.monotonic() < self._until:
            wait([future], _LOOK_S)
        return future.done()

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Handles the signals of ASKING within the block; does nothing outside the main thread."""
        with handling({**dict.fromkeys(ASKING, self._asked), signal.SIGALRM: self._late}):
            try:
                yield self
            except StepAbandoned:  # while data and model were loaded
                words = "stopped before the first step, nothing was saved; run the same command again"
                raise RunStopped(self.signal or signal.SIGTERM, words) from None
            finally:
                self.end()

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            _again(number)
            return
        self.ask(number)
        text = f"\nstopping: the step is finished or, after {self.grace_s:g} s, abandoned; again to stop at once\n"
        with suppress(OSError):  # Ctrl-C also ended what the messages were piped to, or the terminal is gone
            os.write(2, text.encode())
        signal.setitimer(signal.ITIMER_REAL, self.grace_s, AGAIN_S)

    def _late(self, number: int, frame: FrameType | None) -> None:
        if not self._held and not _is_importing(frame):
            raise StepAbandoned


Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handling(handlers: dict[signal.Signals, Handler]) -> Iterator[None]:
    """These handlers within the block; only the main thread can have any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if _PUT_OFF:
        raise _PUT_OFF.pop()
    hangup = getattr(signal, "SIGHUP", None)
    kept = [n for n in handlers if n != hangup or signal.getsignal(n) != signal.SIG_IGN]  # nohup has it ignored
    before: dict[signal.Signals, Any] = {number: signal.signal(number, handlers[number]) for number in kept}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def until_interrupted() -> AbstractContextManager[None]:
    """For programs that Ctrl-C ends in the ordinary way: it raises KeyboardInterrupt in the block."""
    return handling({signal.SIGINT: signal.default_int_handler})


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being loaded there. Nothing is raised in one: a library of C swallows it or is left half
    loaded, and what needs it fails with a reason of its own. The request comes again after AGAIN_S."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib."):
        frame = frame.f_back
    return frame is not None


def _again(number: int) -> None:
    """A second Ctrl-C or SIGTERM ends the process. The others come several times by themselves: from a terminal that is
    closed and from its shell, and every second from a limit of CPU time."""
    if number in (signal.SIGINT, signal.SIGTERM):
        _leave(number)


def _leave(number: int) -> None:
    """Ends the process at once: closing things in order could wait for a slow reward or server."""
    if sys.stderr.isatty():
        os.write(2, _SHOW_CURSOR)
    os._exit(128 + number)
