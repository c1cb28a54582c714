"""Reads JSON files element by element, with line numbers: any size in a small memory window."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saccade.faults import shown

WINDOW = 1 << 20
"""Characters read at a time."""
LARGEST = 16 << 20
"""Maximum characters of an element."""
MOST_VALUES = 1_000_000
"""Maximum commas and opening brackets of an element: a value takes up to 100 times the memory of its characters."""
_NEAR = 16
"""An error so close to the end of the window may come from the window's end: an escape, a number or a name is cut."""
_MARKS = re.compile(r'\\[\s\S]|["\[\]{},\n]')
_KEPT = 1 << 14
"""Characters before an element that may stay in memory: a decoder's error counts the lines of all of them."""
_BLANKS = " \t\r\n"
_BEHIND = (*_BLANKS, ",", "]", "}")
"""What may follow a number."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        key = next(key for key, number in Counter(key for key, _ in pairs).items() if number > 1)
        raise ValueError(f"an object has the key {key[:80]!r} twice")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_object)
"""Refuses objects that hold a key twice, of which Python would keep the last in silence."""


def bomb(text: str) -> ValueError | None:
    """The error to raise for an element, or its beginning, with so many values."""
    if len(text) <= MOST_VALUES or sum(map(text.count, ",[{")) <= MOST_VALUES:
        return None
    return ValueError(f"unreadable JSON: has more than {MOST_VALUES:,} values, expected a row of a data set")


class Cursor:
    """A position in a text file: the unconsumed text and the line on which it starts."""

    def __init__(self, path: Path) -> None:
        self._file = path.open(encoding="utf-8-sig", errors="surrogateescape")  # refused with the row that has them
        self._text, self._at, self._ended, self._balanced = "", 0, False, True
        self.line = 1

    def close(self) -> None:
        self._file.close()

    def _more(self) -> bool:
        """Reads more text; False at the end of the file."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        # doubling avoids quadratic rereading of a long element
        got = self._file.read(max(WINDOW, min(len(rest), LARGEST + WINDOW - len(rest))))
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
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _NEAR
                if cut and len(self._text) - self._at > LARGEST:
                    raise ValueError(
                        f"not JSON ({error.msg}), or one value of more than {LARGEST} characters"
                    ) from None
                if cut and (many := bomb(self._text[self._at :])):
                    raise many from None
                if not cut or not self._more():
                    raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
                continue
            except RecursionError:
                raise ValueError("unreadable JSON: nested too deeply") from None
            except ValueError as error:  # an integer of thousands of digits, a key twice
                raise ValueError(f"unreadable JSON: {error}") from None
            if isinstance(value, int | float) and self._text[end : end + 1] not in _BEHIND and self._more():
                continue  # a number may continue beyond the window
            self._advance(end - self._at)
            return value

    def skip(self) -> bool:
        """Moves past a value that is not JSON, up to the comma or bracket after it. Quotes and brackets say where it
        ends; where they are unbalanced, the next line that begins like this value with an object. False without one.
        """
        before = self._at
        while before and self._text[before - 1] in " \t\r":
            before -= 1
        indent = self._text[before : self._at] if not before or self._text[before - 1] == "\n" else None
        if before > _KEPT:
            self._text, self._at = self._text[before - 1 :], self._at - before + 1
        start, depth, quoted = self._at, 0, False
        at = start
        while self._balanced:
            found = _MARKS.search(self._text, at)
            if found is None:
                at = len(self._text)
                if at - start > LARGEST:
                    break
                taken = self._at
                if not self._more():
                    break
                start, at = start - taken, at - taken
                continue
            at, mark = found.end(), found[0]
            if mark == "\n" or (mark == '"'):
                quoted = mark == '"' and not quoted
            elif not quoted and mark in "[{":
                depth += 1
            elif not quoted and (mark in "]}" or not depth) and mark[0] != "\\":
                if not depth:
                    self._advance(at - 1 - self._at)
                    return True
                depth -= mark in "]}"
        self._balanced = False  # looking again for each further element would take quadratic time
        return False if indent is None else self._next_line(indent)

    def _next_line(self, indent: str) -> bool:
        """Moves to the comma before the next line that begins with this indent and an object."""
        sought, taken = f"\n{indent}{{", 0
        while True:
            found = self._text.find(sought, self._at + taken)
            if found >= 0:
                self._advance(found - self._at)
                return True
            self._advance(max(0, len(self._text) - len(sought) - self._at))
            if not self._more():
                return False


def elements(path: Path, whole: bool = False) -> Iterator[tuple[str, int, Any]]:
    """(key, line, element) of a JSON list (key ''), or of every list in a JSON object; a non-list value counts
    as one element, with `whole` a list in an object too.

    An element of a list that is not JSON yields a ValueError in its place, and the list continues behind it. Where the
    list itself is not JSON, a last ValueError says that what follows is not read.
    """
    cursor = Cursor(path)
    try:
        yield from _elements(cursor, whole)
    except ValueError as error:
        yield "", cursor.line, error
    finally:
        cursor.close()


def _elements(cursor: Cursor, whole: bool) -> Iterator[tuple[str, int, Any]]:
    if cursor.peek() == "[":
        yield from _list(cursor, "")
    else:
        cursor.take("{")
        while cursor.peek() != "}":
            key = cursor.value()
            if not isinstance(key, str):
                raise ValueError(f"not JSON: got {shown(key)}, expected a key in quotes")
            cursor.take(":")
            if cursor.peek() == "[" and not whole:
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
        try:
            yield key, line, cursor.value()
            if cursor.peek() not in ("]", ",", ""):
                line = cursor.line
                cursor.take("],")
        except ValueError as error:
            if not cursor.peek():
                raise
            yield key, line, error
            if not cursor.skip():
                raise ValueError("not JSON: this element has no end; what follows it is not read") from None
        if cursor.peek() == "{":  # found by its line, the comma is before it
            continue
        if cursor.peek() != "]":
            cursor.take(",")
            if cursor.peek() == "]":
                raise ValueError("not JSON: got ']' after a comma, expected another element")
    cursor.take("]")
