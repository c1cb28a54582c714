"""Faults that many rows or keys share, as one line each: the first place, a count, and a few more places."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PLACES = 3
"""Places that a line lists."""
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|(?<![\w./-])[\w./-]*\d[\w./-]*|\[[^\]]{0,400}\]")


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
