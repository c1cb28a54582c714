"""Facts about a picture of the procedural world: written by the describer, parsed by the reasoner.

The reasoner gets these sentences and nothing else, so omitted or misread facts cannot be recovered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from random import Random

from saccade.world import Scene
from saccade.world.config import COLORS, DIGITS, SHAPES, SIZES, TILE
from saccade.world.question import with_article


@dataclass(frozen=True, slots=True)
class Spot:
    """An object in a grid cell."""

    cell: str
    size: str
    color: str
    shape: str
    digit: int | None = None

    @property
    def sentence(self) -> str:
        number = "" if self.digit is None else f" with the digit {self.digit}"
        size = f"{self.size} " if self.digit is None else ""
        noun = with_article(f"{size}{self.color} {self.shape}")
        return f"Cell {self.cell} holds {noun}{number}."

    @property
    def place(self) -> tuple[int, int]:
        """(column, row) from 0."""
        return ord(self.cell[0]) - ord("a"), int(self.cell[1:]) - 1

    def misread(self, rng: Random) -> Spot:
        if self.digit is not None:
            return replace(self, digit=rng.choice([d for d in DIGITS if d != self.digit]))
        if rng.random() < 0.5:
            return replace(self, color=rng.choice([c for c in COLORS if c != self.color]))
        return replace(self, shape=rng.choice([s for s in SHAPES if s != self.shape]))


@dataclass(frozen=True, slots=True)
class Height:
    """A bar of a chart."""

    color: str
    value: int

    @property
    def sentence(self) -> str:
        return f"The {self.color} bar reaches {self.value}."

    def misread(self, rng: Random) -> Height:
        return replace(self, value=min(9, max(1, self.value + rng.choice((-1, 1)))))


@dataclass(frozen=True, slots=True)
class Printed:
    """A number printed at a part of a figure; None is a question mark."""

    role: str
    value: int | None

    @property
    def sentence(self) -> str:
        return f"One {self.role} is marked {'with a question mark' if self.value is None else self.value}."

    def misread(self, rng: Random) -> Printed:
        return self if self.value is None else replace(self, value=max(1, self.value + rng.choice((-2, -1, 1, 2))))


Fact = Spot | Height | Printed


def facts_of(scene: Scene) -> list[Fact]:
    """Everything a scene shows, in reading order."""
    spots: list[Fact] = [Spot(t.cell, t.size, t.color, t.shape, t.digit) for t in scene.objects]
    bars: list[Fact] = [Height(bar.color, bar.value) for bar in scene.bars]
    labels = scene.figure.labels if scene.figure else ()
    printed: list[Fact] = [Printed(one.role, None if one.text == "?" else int(one.text)) for one in labels]
    return spots + bars + printed


_SPOT = re.compile(
    rf"Cell ([a-i]\d) holds an? (?:({'|'.join(SIZES)}) )?({'|'.join(COLORS)}) ({'|'.join((*SHAPES, TILE))})"
    r"(?: with the digit (\d))?\."
)
_HEIGHT = re.compile(rf"The ({'|'.join(COLORS)}) bar reaches (\d+)\.")
_PRINTED = re.compile(r"One (\w+) is marked (?:(\d+)|with a question mark)\.")


def read_facts(text: str) -> list[Fact]:
    """The facts stated by complete sentences of a text, in order; everything else is ignored."""
    found: list[tuple[int, Fact]] = []
    for match in _SPOT.finditer(text):
        cell, size, color, shape, digit = match.groups()
        found.append((match.start(), Spot(cell, size or "", color, shape, int(digit) if digit else None)))
    found += [(match.start(), Height(match[1], int(match[2]))) for match in _HEIGHT.finditer(text)]
    found += [
        (match.start(), Printed(match[1], int(match[2]) if match[2] else None)) for match in _PRINTED.finditer(text)
    ]
    return [fact for _, fact in sorted(found, key=lambda pair: pair[0])]
