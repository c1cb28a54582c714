"""What reaches the terminal: text of rows, names, replies and servers without control characters, cut to a screen."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import typer

from saccade.runs.safe_text import SafeFormatter, printable, safe, without_password

_COLORS = re.compile(r"\x1b\[[0-9;]*m")


def process_of() -> tuple[int, int]:
    """Which process this is of how many that torchrun started. Clusters give RANK and WORLD_SIZE to jobs of one process
    too."""
    if not {"TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"} <= os.environ.keys():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def echo(message: object, err: bool = False) -> None:
    """Prints one message, for which nobody may be left to read it."""
    with _maybe_unread(err):
        typer.echo(safe(str(message)), err=err)


def echo_whole(text: str, nl: bool = True) -> None:
    """Prints a text that was asked for whole, such as a recipe, a table or JSON."""
    with _maybe_unread():
        typer.echo(without_password(printable(text)), nl=nl)


@contextmanager
def _maybe_unread(err: bool = False) -> Iterator[None]:
    """When the reader of a pipe ended (`| head`) or the terminal is gone, work goes on and the rest is not written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO) and not err:
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2 if err else 1)
        os.close(nowhere)


def echo_json(content: Any, err: bool = False) -> None:
    """Prints plain data as JSON, for machines."""
    with _maybe_unread(err):
        typer.echo(json.dumps(_masked(content), indent=1), err=err)


def _masked(content: Any) -> Any:
    if isinstance(content, str):
        return without_password(content)
    if isinstance(content, dict):
        return {name: _masked(one) for name, one in content.items()}
    return [_masked(one) for one in content] if isinstance(content, list | tuple) else content


def safe_record(*given: Any, **named: Any) -> logging.LogRecord:
    """A log record whose message a terminal can show, also one of a library that quotes names of a checkpoint."""
    record = logging.LogRecord(*given, **named)
    if not record.name.startswith("saccade"):
        with suppress(Exception):  # a library's own mistake, which its handler tells
            record.msg, record.args = safe(_COLORS.sub("", record.getMessage())), None
    return record


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
    text = "".join(traceback.format_exception(kind, error, trace)[-30:])
    sys.stderr.write(without_password(printable(text))[-20_000:])
