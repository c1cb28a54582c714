"""Reads JSON files element by element, with line numbers: any size in a small memory window."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WINDOW = 1 << 20
"""Characters read at a time."""
LARGEST = 1 << 26
"""Maximum characters of an element."""
_DECODER = json.JSONDecoder()
_BLANKS = " \t\r\n"
_BEHIND = (*_BLANKS, ",", "]", "}")
"""What may follow a number."""


class Cursor:
    """A position in a text file: the unconsumed text and the line on which it starts."""

    def __init__(self, path: Path) -> None:
        self._file = path.open(encoding="utf-8-sig")
        self._text, self._at, self._ended = "", 0, False
        self.line = 1

    def close(self) -> None:
        self._file.close()

    def _more(self) -> bool:
        """Reads more text; False at the end of the file."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        got = self._file.read(max(WINDOW, len(rest)))  # doubling avoids quadratic rereading of a long element
        self._text, self._at, self._ended = rest + got, 0, not got
        return bool(got)

    def _advance(self, count: int) -> None:
        self.line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def peek(self) -> str:
        """The next non-blank character, '' at the end."""
        while True:
            text, at = self._text, self._at
            while at < len(text) and text[at] in _BLANKS:
                at += 1
            self._advance(at - self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, expected: str) -> str:
        """Consumes the next character, which must be in `expected`. Raises ValueError."""
        got = self.peek()
        if not got or got not in expected:
            actual = f"{got!r}" if got else "the end of the file"
            raise ValueError(f"not JSON: got {actual}, expected {' or '.join(map(repr, expected))}")
        self._advance(1)
        return got

    def value(self) -> Any:
        """The next complete value. ValueError when it is not JSON, truncated, or larger than LARGEST."""
        if not self.peek():
            raise ValueError("not JSON: the file ends where a value is expected; it was truncated")
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if len(self._text) - self._at > LARGEST:
                    raise ValueError(
                        f"not JSON ({error.msg}), or one value of more than {LARGEST} characters"
                    ) from None
                if not self._more():
                    raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
                continue
            except RecursionError:
                raise ValueError("unreadable JSON: nested too deeply") from None
            if isinstance(value, int | float) and self._text[end : end + 1] not in _BEHIND and self._more():
                continue  # a number may continue beyond the window
            self._advance(end - self._at)
            return value


def elements(path: Path) -> Iterator[tuple[str, int, Any]]:
    """(key, line, element) of a JSON list (key ''), or of every list in a JSON object; a non-list value counts
    as one element.

    Invalid JSON yields a ValueError in place of the element and ends the stream, since parsing cannot recover after it.
    """
    cursor = Cursor(path)
    try:
        yield from _elements(cursor)
    except UnicodeDecodeError as error:
        yield "", cursor.line, ValueError(f"not UTF-8 text ({error.reason}); save the file as UTF-8")
    except ValueError as error:
        yield "", cursor.line, error
    finally:
        cursor.close()


def _elements(cursor: Cursor) -> Iterator[tuple[str, int, Any]]:
    if cursor.peek() == "[":
        yield from _list(cursor, "")
    else:
        cursor.take("{")
        while cursor.peek() != "}":
            key = cursor.value()
            if not isinstance(key, str):
                raise ValueError(f"not JSON: got {key!r}, expected a key in quotes")
            cursor.take(":")
            if cursor.peek() == "[":
                yield from _list(cursor, key)
            else:
                yield key, cursor.line, cursor.value()
            if cursor.peek() != "}":
                cursor.take(",")
        cursor.take("}")
    if cursor.peek():
        raise ValueError(f"got {cursor.peek()!r} after the end of the JSON value; expected one list or one object")


def _list(cursor: Cursor, key: str) -> Iterator[tuple[str, int, Any]]:
    cursor.take("[")
    while cursor.peek() != "]":
        line = cursor.line
        yield key, line, cursor.value()
        if cursor.peek() != "]":
            cursor.take(",")
            if cursor.peek() == "]":
                raise ValueError("not JSON: got ']' after a comma, expected another element")
    cursor.take("]")
