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
MOST_ELEMENTS = 1 << 19
"""Of one row or element, counted by brackets and commas, also those in texts: values take up to 30 times their bytes.
Prose of LARGEST characters has some 300,000 commas."""
_NEAR = 16
"""An error so close to the end of the window may come from the window's end: an escape, a number or a name is cut."""
_MARKS = re.compile(r'\\[\s\S]|["\[\]{},\n]')
_KEPT = 1 << 14
"""Characters before an element that may stay in memory: a decoder's error counts the lines of all of them."""
_CLOSED = {"[": b"]", "{": b"}"}
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


def decoded(text: str) -> Any:
    """The value that is the whole text. ValueError for other text, more than MOST_ELEMENTS, and as of `DECODER`."""
    refuse_crowded(text, 0, len(text))
    return DECODER.decode(text)


def refuse_crowded(text: str, start: int, end: int) -> None:
    """ValueError for JSON of more than MOST_ELEMENTS in this part of a text."""
    if end - start > MOST_ELEMENTS and sum(text.count(mark, start, end) for mark in "[{,") > MOST_ELEMENTS:
        raise ValueError(f"more than {MOST_ELEMENTS:,} brackets and commas in one row; shorten it")


class UnreadError(ValueError):
    """What follows in the file is not read."""


class Cursor:
    """A position in a text file: the unconsumed text and the line on which it starts."""

    def __init__(self, path: Path) -> None:
        self._file = path.open(encoding="utf-8-sig", errors="surrogateescape")  # refused with the row that has them
        self._text, self._at, self._ended, self._balanced = "", 0, False, True
        self.line = 1
        self.indent: str | None = ""
        """The blanks in front of the position, if its line has nothing else."""
        self.skipped = ""
        """The beginning of what `skip` moved past."""

    def close(self) -> None:
        self._file.close()

    def _more(self) -> bool:
        """Reads more text; False at the end of the file."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        got = self._file.read(WINDOW)  # no more, since decoding it again takes many times its memory
        self._text, self._at, self._ended = rest + got, 0, not got
        return bool(got)

    def _advance(self, count: int) -> None:
        if count:
            self.line += self._text.count("\n", self._at, self._at + count)
            self._at, self.indent = self._at + count, None

    def peek(self) -> str:
        """The next non-blank character, '' at the end."""
        while True:
            text, at = self._text, self._at
            while at < len(text) and text[at] in _BLANKS:
                at += 1
            if blanks := text[self._at : at]:
                indent = self.indent
                self._advance(len(blanks))
                last = blanks.rpartition("\n")[2]
                self.indent = last if "\n" in blanks else None if indent is None else indent + last
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
                refuse_crowded(self._text, self._at, len(self._text) if cut else self._at)
                if not cut or not self._more():
                    raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
                continue
            except RecursionError:
                raise ValueError("unreadable JSON: nested too deeply") from None
            except ValueError as error:  # an integer of thousands of digits, a key twice
                raise ValueError(f"unreadable JSON: {error}") from None
            if isinstance(value, int | float) and self._text[end : end + 1] not in _BEHIND and self._more():
                continue  # a number may continue beyond the window
            refuse_crowded(self._text, self._at, end)
            self._advance(end - self._at)
            return value

    def skip(self, end: str, indent: str | None) -> bool:
        """Moves past a value that is not JSON, to the comma after it or to the `end` of what it is in. Quotes and
        brackets say where that is; where they are unbalanced, it is the next line that begins with this `indent` and an
        object in a list, a key in an object, or that ends the list. False without one."""
        if self._at > _KEPT:
            self._text, self._at = self._text[self._at :], 0
        at, opened, quoted, self.skipped = self._at, bytearray(), False, ""
        while self._balanced:
            found = _MARKS.search(self._text, at)
            if found is None:
                taken, length = self._at, len(self._text) - self._at
                cut = self._text.endswith("\\")
                if length > LARGEST or not self._more():
                    break
                at = max(at - taken, length - cut)
                continue
            at, mark = found.end(), found[0]
            if mark == "\n" or (mark == '"'):
                quoted = mark == '"' and not quoted
            elif quoted or mark[0] == "\\":
                continue
            elif mark in _CLOSED:
                opened += _CLOSED[mark]
            elif not opened and mark in (",", end):
                self._skip_to(at - 1)
                return True
            elif opened and mark == chr(opened[-1]):
                opened.pop()
            elif opened and mark != "," and indent is not None:  # one never closes, or there is one too many
                break
        self._balanced = False  # looking again for each further element would take quadratic time
        return indent is not None and self._next_line(end, indent)

    def _skip_to(self, at: int) -> None:
        self.skipped += self._text[self._at : min(at, self._at + _KEPT * 4 - len(self.skipped))]
        self._advance(at - self._at)

    def _next_line(self, end: str, indent: str) -> bool:
        """Moves to the end of the line before the next one that begins with this indent and what `skip` says."""
        pattern = rf"\n(?:{indent}\{{|[ \t]{{0,{len(indent)}}}\])" if end == "]" else rf'\n{indent}"'
        sought = re.compile(pattern)
        while True:
            if found := sought.search(self._text, self._at):
                self._skip_to(found.start())
                return True
            self._skip_to(max(self._at, len(self._text) - len(indent) - 2))
            if not self._more():
                return False


def elements(path: Path, whole: bool = False) -> Iterator[tuple[str, int, Any]]:
    """(key, line, element) of a JSON list (key ''), or of every list in a JSON object; a non-list value counts
    as one element, with `whole` a list in an object too.

    An element that is not JSON yields a ValueError in its place, which has the beginning of its text as a note, and the
    list or object continues behind it. Where it cannot, the last is an UnreadError (key '').
    """
    cursor = Cursor(path)
    try:
        yield from _list(cursor, "") if cursor.peek() == "[" else _members(cursor, whole)
        if cursor.peek():
            why = f"got {cursor.peek()!r} after the end of the JSON value; expected one list or one object"
            yield "", cursor.line, ValueError(why)
    except ValueError as error:
        yield "", cursor.line, UnreadError(str(error))
    finally:
        cursor.close()


def _members(cursor: Cursor, whole: bool) -> Iterator[tuple[str, int, Any]]:
    cursor.take("{")
    while True:
        while cursor.peek() != "}":
            yield from _member(cursor, whole)
        cursor.take("}")
        if cursor.peek() != ",":
            return
        yield "", cursor.line, ValueError("not JSON: got ',' after the end of the object; a '}' before it is too many")
        cursor.take(",")
        if cursor.peek() != '"':
            raise ValueError("what follows the object is no key in quotes; it is not read")


def _member(cursor: Cursor, whole: bool) -> Iterator[tuple[str, int, Any]]:
    """The elements of one key of an object, and past the comma behind them."""
    line, indent, key, is_list, failed = cursor.line, cursor.indent, "", False, False
    try:
        key = cursor.value()
        if not isinstance(key, str):
            raise ValueError(f"not JSON: got {shown(key)}, expected a key in quotes")
        cursor.take(":")
        is_list = cursor.peek() == "[" and not whole
        if not is_list:
            line = cursor.line
            yield key, line, cursor.value()
    except ValueError as error:
        failed = True
        yield from _past(cursor, (str(key), line, error), "}", indent)
    if is_list:
        yield from _list(cursor, key)
    mark, line = cursor.peek(), cursor.line
    if mark == '"' and not failed:
        yield key, line, ValueError("not JSON: got a key, expected ',' before it")
    elif mark not in (",", '"', "}"):
        got = repr(mark) if mark else "the end of the file"
        yield from _past(cursor, (key, line, ValueError(f"not JSON: got {got}, expected ',' or '}}'")), "}", indent)
    if cursor.peek() == ",":
        cursor.take(",")


def _list(cursor: Cursor, key: str) -> Iterator[tuple[str, int, Any]]:
    cursor.take("[")
    while cursor.peek() != "]":
        line, indent = cursor.line, cursor.indent
        try:
            yield key, line, cursor.value()
            if cursor.peek() not in ("]", ",", ""):
                line = cursor.line
                cursor.take("],")
        except ValueError as error:
            yield from _past(cursor, (key, line, error), "]", indent)
        if cursor.peek() == "{":  # found by its line, the comma is before it
            continue
        if cursor.peek() != "]":
            cursor.take(",")
            if cursor.peek() == "]":
                error = ValueError("not JSON: got ']' after a comma, expected another element")
                yield key, cursor.line, error
    cursor.take("]")


def _past(
    cursor: Cursor, fault: tuple[str, int, ValueError], end: str, indent: str | None
) -> Iterator[tuple[str, int, Any]]:
    """The fault of an element; the cursor moves past it. ValueError where it cannot."""
    if not cursor.peek():
        raise fault[2]
    found = cursor.skip(end, indent)
    fault[2].add_note(cursor.skipped)
    yield fault
    if not found:
        raise ValueError(f"not JSON: this element has no end; what follows it is not read ({fault[2]})")
