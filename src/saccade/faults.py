"""Faults that many rows or keys share, as one line each: the first place, a count, and a few more places. What such a
line shows of a value is short, and costs little, whatever the value."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

PLACES = 3
"""Places that a line lists."""
MOST_NAMES = 50
"""Names that a line lists."""
LONGEST = 120
"""Characters of a value in a line."""
LONGEST_REASON = 2_000
"""Characters of a place, and of the reason why a row cannot be used."""
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|(?<![\w./-])[\w./-]*\d[\w./-]*|\[[^\]]{0,400}\]")


def cut(text: str, most: int) -> str:
    """The beginning of a text that is too long for a line."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def on_a_line(text: str) -> str:
    """A name as it is, or with escapes in place of line breaks and whatever else cannot be printed."""
    return text if text.isprintable() else repr(text)[1:-1]


def first_line(error: BaseException) -> str:
    """The first line of an error message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def no_file(path: Path) -> str:
    """Why a path cannot be read as a file."""
    return "is no regular file (a folder, pipe or device)" if path.exists() else "there is no such file"


def listed(names: Collection[object]) -> str:
    """Names for a line, of many the first; 'nothing' without any."""
    more = f", .. ({len(names):,} in all)" if len(names) > MOST_NAMES else ""
    return ", ".join(cut(str(one), LONGEST) for one in islice(names, MOST_NAMES)) + more or "nothing"


def shown(value: Any) -> str:
    """A value for an error message, truncated to a readable length."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = repr(_beginning(value, [LONGEST]))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _beginning(value: Any, left: list[int]) -> Any:
    """What the first characters of a value's `repr` show. `left` counts down the values inside, each of which takes a
    character or more: those of a file may repeat one another (aliases of YAML) and be endless written out."""
    left[0] -= 1
    if isinstance(value, str | bytes):
        return value[: 2 * LONGEST]
    if type(value) in (list, tuple):
        return type(value)(_beginning(one, left) for one in takewhile(lambda _: left[0] > 0, value))
    if type(value) is dict:
        inner = takewhile(lambda _: left[0] > 0, value.items())
        return {_beginning(key, left): _beginning(one, left) for key, one in inner}
    return value


def shape_of(text: str) -> str:
    """The text without what differs between two rows with the same fault: numbers, quoted texts and lists."""
    return _VARYING.sub("~", text)


@dataclass
class Fault:
    """A fault, and where it is."""

    text: str
    """As the first place has it."""
    places: list[str]
    """The first few."""
    noun: str = "rows"
    count: int = 1

    def add(self, place: str) -> None:
        self.count += 1
        if len(self.places) < PLACES:
            self.places.append(place)

    def __str__(self) -> str:
        if self.count == 1:
            return f"{self.places[0]}: {self.text}"
        places = ", ".join([*self.places, *([".."] if self.count > PLACES else [])])
        return f"{self.places[0]}: {self.text} [{self.count:,} {self.noun}: {places}]"


class Faults:
    """Faults by their shape, in the order of their first places; at most `keep` shapes are kept."""

    def __init__(self, keep: int, noun: str = "rows", shape: Callable[[str], str] = shape_of) -> None:
        self.keep, self.noun, self.shape = keep, noun, shape
        self.found: dict[str, Fault] = {}
        self.hidden = 0
        """Faults of other shapes."""

    def add(self, place: str, text: str) -> None:
        shape = self.shape(text)
        if shape in self.found:
            self.found[shape].add(place)
        elif len(self.found) < self.keep:
            self.found[shape] = Fault(text, [place], self.noun)
        else:
            self.hidden += 1

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.found.values())
