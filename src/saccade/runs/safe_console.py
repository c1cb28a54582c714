"""A terminal for tables, bars and colored lines, on which no text from outside can steer it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.segment import Segment

from saccade.runs.safe_text import printable, without_password


class SafeConsole(Console):
    """A console that reads no markup, and shows control characters as escapes; the colors are its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, **options)

    def render(self, *given: Any, **named: Any) -> Iterator[Segment]:
        for one in super().render(*given, **named):
            yield one if one.control else Segment(without_password(printable(one.text)), one.style)
