"""Scenes as plain data: objects, positions, background. Rendering and questions are elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from saccade.types import Box
from saccade.world.config import Rgb


@dataclass(frozen=True, slots=True)
class Thing:
    """One object. `box` is the tight box of its visible pixels (x2, y2 are edges: x2 - x1 is the width)."""

    color: str
    shape: str
    size: str
    digit: int | None
    box: Box
    cell: str
    index: int
    """Index of the cell, row by row from the top left, from 0."""
    z: int
    """Drawing order; higher objects cover lower ones."""
    rgb: Rgb
    center: tuple[int, int]
    radius: int
    visible: float = 1.0
    """Share of its pixels that are not covered by other objects."""


@dataclass(frozen=True, slots=True)
class Background:
    """`tones` are two colors (a plain background uses the first); `seed` determines noise, lines and directions."""

    style: str
    tones: tuple[Rgb, Rgb]
    seed: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a chart: its color, value 1-9 and tight box."""

    color: str
    value: int
    box: Box
    rgb: Rgb


@dataclass(frozen=True, slots=True)
class TextLabel:
    """A printed number and its position; `text` may be '?'."""

    text: str
    role: str
    """What it measures: 'angle', 'leg', 'hypotenuse', 'width', 'height', 'axis'."""
    at: tuple[int, int]
    """Top left pixel of the glyphs."""
    scale: int = 1
    """Pixels per glyph dot."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn figure of a geometry scene: corner points in pixels and printed numbers."""

    name: str
    """'triangle', 'right triangle' or 'rectangle'."""
    points: tuple[tuple[int, int], ...]
    labels: tuple[TextLabel, ...]
    rgb: Rgb
    """Fill color."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything an image shows. `after` is the second image of a difference pair."""

    kind: str
    size: tuple[int, int]
    cells: int
    objects: tuple[Thing, ...]
    """In reading order."""
    background: Background
    layout: str = "grid"
    bars: tuple[Bar, ...] = ()
    labels: tuple[TextLabel, ...] = ()
    """The numbers at a chart's gridlines, from 0 upwards."""
    figure: Figure | None = None
    after: Scene | None = None


def cell_name(column: int, row: int) -> str:
    """Chess notation: columns a, b, ... from the left, rows 1, 2, ... from the top."""
    return f"{chr(ord('a') + column)}{row + 1}"


def reading_order(things: Iterable[Thing]) -> tuple[Thing, ...]:
    """Row by row of cells; objects of one cell (free layout) from the left."""
    return tuple(sorted(things, key=lambda thing: (thing.index, thing.center, thing.z)))
