"""A scene is plain data: what stands where, on which background. Drawing and asking are done elsewhere."""

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
    """Of the cell, row by row from the top left, from 0."""
    z: int
    """Drawing order; a higher one hides a lower one."""
    rgb: Rgb
    center: tuple[int, int]
    radius: int
    visible: float = 1.0
    """Share of its pixels that no other object hides."""


@dataclass(frozen=True, slots=True)
class Background:
    """`tones` are two colours (a plain background uses the first); `seed` fixes noise, lines and directions."""

    style: str
    tones: tuple[Rgb, Rgb]
    seed: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a chart: its colour, value 1-9 and tight box."""

    color: str
    value: int
    box: Box
    rgb: Rgb


@dataclass(frozen=True, slots=True)
class Label:
    """A printed number and where its glyphs stand; `text` may be '?'."""

    text: str
    role: str
    """What it measures: 'angle', 'leg', 'hypotenuse', 'width', 'height', 'axis'."""
    at: tuple[int, int]
    """Top left pixel of the glyphs."""
    scale: int = 1
    """Pixels per glyph dot."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn figure of a geometry scene: corner points in pixels and the numbers printed at it."""

    name: str
    """'triangle', 'right triangle' or 'rectangle'."""
    points: tuple[tuple[int, int], ...]
    labels: tuple[Label, ...]
    rgb: Rgb
    """What it is filled with."""


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
    labels: tuple[Label, ...] = ()
    """The numbers at a chart's gridlines, from 0 upwards."""
    figure: Figure | None = None
    after: Scene | None = None


def cell_name(column: int, row: int) -> str:
    """Chess-like: columns a, b, ... from the left, rows 1, 2, ... from the top."""
    return f"{chr(ord('a') + column)}{row + 1}"


def reading_order(things: Iterable[Thing]) -> tuple[Thing, ...]:
    """Row by row of cells; objects of one cell (free layout) from the left."""
    return tuple(sorted(things, key=lambda thing: (thing.index, thing.center, thing.z)))
