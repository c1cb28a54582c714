"""Programs that end with the process that started them, also when that is killed."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux."""


def ending_with_parent() -> Callable[[], None] | None:
    """The `preexec_fn` of a program that gets SIGTERM when the thread that starts it ends; None where the kernel is
    not Linux."""
    parent, prctl = os.getpid(), getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None:
        return None

    def tie() -> None:
        prctl(_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # which was killed before that call
            os.kill(os.getpid(), signal.SIGTERM)

    return tie
