"""A live progress bar on a terminal, plain log lines otherwise."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from saccade.runs.safe_console import SafeConsole
from saccade.runs.safe_text import printable

log = logging.getLogger(__name__)

LOG_EVERY_S = 10.0


class ProgressFn(Protocol):
    """Called after each step with the step number and a few metrics to show."""

    def __call__(self, step: int, numbers: Mapping[str, float]) -> None: ...


def line(numbers: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in numbers.items())


@contextmanager
def progress(title: str, num_steps: int, console: Console | None = None, shown: bool = True) -> Iterator[ProgressFn]:
    """Yields the function to call after each step; the terminal is restored even after an error. One of several
    processes is `shown`."""
    if not shown:
        yield lambda step, numbers: None
        return
    console = console or SafeConsole(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("[bold]{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[numbers]}"), console=console) as bar:
            task = bar.add_task(escape(printable(title)), total=num_steps, numbers="")
            yield lambda step, numbers: bar.update(task, completed=step, numbers=line(numbers))
        return
    last = -LOG_EVERY_S

    def report(step: int, numbers: Mapping[str, float]) -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_EVERY_S or step >= num_steps:
            last = time.monotonic()
            log.info("%s %d/%d  %s", title, step, num_steps, line(numbers))

    yield report
