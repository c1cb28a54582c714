"""JSON files read element by element, with line numbers: a data set of any size passes through a small window."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WINDOW = 1 << 20
"""Characters read at a time."""
LARGEST = 1 << 26
"""Characters of the largest element."""
_DECODER = json.JSONDecoder()
_BLANKS = " \t\r\n"
_BEHIND = (*_BLANKS, ",", "]", "}")
"""What may follow a number."""


class Cursor:
    """A place in a text file: what was read and not yet used, and the line that it begins on."""

    def __init__(self, path: Path) -> None:
        self._file = path.open(encoding="utf-8-sig")
        self._text, self._at, self._ended = "", 0, False
        self.line = 1

    def close(self) -> None:
        self._file.close()

    def _more(self) -> bool:
        """Reads on; False at the end of the file."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        got = self._file.read(max(WINDOW, len(rest)))  # doubling, so that a long element is not read over and over
        self._text, self._at, self._ended = rest + got, 0, not got
        return bool(got)

    def _advance(self, count: int) -> None:
        self.line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def peek(self) -> str:
        """The next character that is not blank, '' at the end."""
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
        """The next character, one of `expected`. ValueError for another."""
        got = self.peek()
        if not got or got not in expected:
            said = f"{got!r}" if got else "the end of the file"
            raise ValueError(f"not JSON: got {said}, expected {' or '.join(map(repr, expected))}")
        self._advance(1)
        return got

    def value(self) -> Any:
        """The next value, whole. ValueError when it is not JSON, cut off, or larger than LARGEST."""
        if not self.peek():
            raise ValueError("not JSON: the file ends where a value is expected; it was cut off")
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
                raise ValueError("not JSON that can be read: nested too deep") from None
            if isinstance(value, int | float) and self._text[end : end + 1] not in _BEHIND and self._more():
                continue  # a number may go on behind the window
            self._advance(end - self._at)
            return value


def elements(path: Path) -> Iterator[tuple[str, int, Any]]:
    """(key, line, element) of a JSON list (key ''), or of every list in a JSON object; a value that is no list comes
    as one element.

    What is not JSON comes last, as a ValueError in place of the element: nothing after it can be found again.
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
        raise ValueError(f"got {cursor.peek()!r} behind the end of the JSON value; expected one list or one object")


def _list(cursor: Cursor, key: str) -> Iterator[tuple[str, int, Any]]:
    cursor.take("[")
    while cursor.peek() != "]":
        line = cursor.line
        yield key, line, cursor.value()
        if cursor.peek() != "]":
            cursor.take(",")
            if cursor.peek() == "]":
                raise ValueError("not JSON: got ']' behind a comma, expected another element")
    cursor.take("]")
