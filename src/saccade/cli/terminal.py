"""What reaches the terminal: text of rows, names, replies and servers without control characters, cut to a screen."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from types import TracebackType
from typing import Any

import typer

from saccade.runs.safe_text import SafeFormatter, cut, printable


def echo(message: object, err: bool = False) -> None:
    """Prints one message."""
    typer.echo(cut(printable(str(message))), err=err)


def echo_whole(text: str, nl: bool = True) -> None:
    """Prints a text that was asked for whole, such as a recipe, a table or JSON."""
    typer.echo(printable(text), nl=nl)


def echo_json(content: Any, err: bool = False) -> None:
    """Prints plain data as JSON, for machines."""
    typer.echo(json.dumps(content, indent=1), err=err)


class StderrHandler(logging.StreamHandler):
    """Log lines go to the stderr of the moment: a live bar takes it over while it is shown, so that they appear above
    the bar and not inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(SafeFormatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook` for errors that are bugs: as Python's, but safe."""
    sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace)[-30:]))[-20_000:])
