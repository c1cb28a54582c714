"""A terminal for tables, bars and colored lines, on which no text from outside can steer it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from saccade.runs.safe_text import printable, without_password


class SafeConsole(Console):
    """A console that reads no markup, and shows control characters as escapes; the colors are its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, **options)

    def render_str(self, text: str, **named: Any) -> Text:
        return super().render_str(without_password(printable(text)), **named)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        if isinstance(renderable, Text) and (said := without_password(renderable.plain)) != renderable.plain:
            renderable = Text(said, renderable.style)  # before it is broken into lines
        for one in super().render(renderable, options):
            yield one if one.control else Segment(without_password(printable(one.text)), one.style)
