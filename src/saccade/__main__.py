"""`python -m saccade` and the command `saccade`: hears signals from the first moment, before anything is loaded."""

from __future__ import annotations

import os
import signal
from types import FrameType

ASKING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU") if hasattr(signal, name)
]
"""As `saccade.runs.stopping` has them."""


def main() -> None:
    """Runs the command line. A signal before its verb has begun ends the process at once, in one line."""
    heard = [number for number in ASKING if signal.getsignal(number) != signal.SIG_IGN]  # as nohup has SIGHUP
    before = {number: signal.signal(number, _leave) for number in heard}
    from saccade.cli import main as run_verb

    try:
        run_verb()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, b"saccade: stopped before it began; run the same command again\n")
    finally:
        os._exit(128 + number)


if __name__ == "__main__":
    main()
