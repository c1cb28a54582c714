"""What reaches the terminal: text of rows, names, replies and servers without control characters, cut to a screen."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType

import typer

from saccade.runs.safe_text import cut, printable


def echo(message: object, err: bool = False) -> None:
    """Prints one message."""
    typer.echo(cut(printable(str(message))), err=err)


def echo_whole(text: str, nl: bool = True) -> None:
    """Prints a text that was asked for whole, such as a recipe, a table or JSON."""
    typer.echo(printable(text), nl=nl)


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook` for errors that are bugs: as Python's, but safe."""
    sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace)[-30:]))[-20_000:])
