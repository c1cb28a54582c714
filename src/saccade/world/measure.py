"""Measurements from pixels: objects, bars and printed numbers recovered from renderings, not from scene attributes.

Used by the checker. Each object is drawn alone on black and on white; its mask is where the two agree. Its color is
the hue of those pixels in the real image, its shape follows from the mask, its digit from the ink on it.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from saccade.types import Box
from saccade.world.config import PALETTE, TILE
from saccade.world.draw import draw_thing, render
from saccade.world.glyphs import HEIGHT, WIDTH, glyph
from saccade.world.scene import Scene, Thing, cell_name

_HUES = {name: colorsys.rgb_to_hsv(*(v / 255 for v in rgb))[0] for name, rgb in PALETTE.items()}
_SATURATED = 60  # largest minus smallest channel of a colored pixel; backgrounds stay below 20
_INK = 90  # summed channel distance between a tile and its digit


@dataclass(frozen=True, slots=True)
class MeasuredThing:
    """A measured object. `visible` is the share of its pixels that are visible."""

    color: str
    shape: str
    size: str
    digit: int | None
    box: Box
    cell: str
    index: int
    center: tuple[float, float]
    visible: float


def hue_name(rgb: np.ndarray) -> str:
    """The palette color of the nearest hue; rgb in 0..255."""
    hue = colorsys.rgb_to_hsv(*(float(v) / 255 for v in rgb))[0]
    return min(_HUES, key=lambda name: abs((_HUES[name] - hue + 0.5) % 1.0 - 0.5))


def alone(thing: Thing, size: tuple[int, int]) -> np.ndarray:
    """Pixels at least half covered by an object drawn alone, bool [H, W]."""
    shots = []
    for shade in (0, 255):
        image = Image.new("RGB", size, (shade, shade, shade))
        draw_thing(image, replace(thing, digit=None))
        shots.append(np.asarray(image).astype(np.int16))
    return np.abs(shots[0] - shots[1]).max(axis=2) <= 127


def extent(mask: np.ndarray) -> Box:
    """Tight xyxy box of the true pixels."""
    ys, xs = np.nonzero(mask)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def shape_of(mask: np.ndarray) -> str:
    """Shape of a complete object from its mask [h, w]."""
    x1, y1, x2, y2 = (int(v) for v in extent(mask))
    crop = mask[y1:y2, x1:x2]
    height, width = crop.shape
    fill = crop.mean()
    if fill > 0.92:
        return "square"
    if fill > 0.7:
        return "circle"
    if crop[-1].mean() > 0.85:
        return "triangle"
    if width < 0.85 * height:
        return "diamond"
    top = crop[: max(1, height // 4)].mean(axis=0) > 0.5  # there a cross has a straight arm, a star a point
    return "cross" if 0.2 < top.mean() < 0.5 and fill > 0.48 else "star"


def digit_on(pixels: np.ndarray, shown: np.ndarray, ground: np.ndarray) -> int | None:
    """The digit printed on a tile of color `ground`, by the nearest template; None without ink.

    `pixels` [h, w, 3] are the tile's box, `shown` [h, w] its visible pixels.
    """
    ink = (np.abs(pixels - ground).sum(axis=2) > _INK) & shown
    if ink.sum() < HEIGHT:
        return None
    scale = max(1, round(ink.any(axis=1).sum() / HEIGHT))
    x1, y1, x2, y2 = (int(v) for v in extent(ink))
    scores = {}
    for digit in range(10):
        template = glyph(str(digit), scale)
        tight = template[:, template.any(axis=0)]
        found = ink[y1:y2, x1:x2]
        scores[digit] = float((found == tight).mean()) if found.shape == tight.shape else 0.0
    best = max(scores, key=lambda digit: scores[digit])
    return best if scores[best] > 0.9 else None


def measure(scene: Scene) -> tuple[MeasuredThing, ...]:
    """All objects of a scene measured from its pixels, row by row of cells."""
    image = np.asarray(render(scene)).astype(np.int16)
    things = sorted(scene.objects, key=lambda thing: thing.z)
    masks = [alone(thing, scene.size) for thing in things]
    hidden = np.zeros(image.shape[:2], dtype=bool)
    pitch = scene.size[0] // scene.cells
    found = []
    for mask in reversed(masks):  # from the front to the back
        shown = mask & ~hidden
        hidden |= mask
        ground = np.median(image[shown], axis=0)
        x1, y1, x2, y2 = (int(v) for v in extent(mask))
        crop = image[y1:y2, x1:x2]
        digit = digit_on(crop, shown[y1:y2, x1:x2], ground) if scene.kind == "digits" else None
        shape = TILE if digit is not None else shape_of(mask)
        large = max(x2 - x1, y2 - y1) > (0.75 if digit is not None else 0.61) * pitch
        center = ((x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2)
        column, row = int(center[0] // pitch), int(center[1] // pitch)
        share = float(shown.sum()) / float(mask.sum())
        size, cell = "large" if large else "small", cell_name(column, row)
        index = row * scene.cells + column
        found.append(MeasuredThing(hue_name(ground), shape, size, digit, extent(shown), cell, index, center, share))
    return tuple(sorted(found, key=lambda seen: (seen.index, seen.center)))


def bar_values(image: Image.Image) -> dict[str, int]:
    """Color -> value of each bar, from its height in gridlines."""
    pixels = np.asarray(image).astype(np.int16)
    margin = pixels[:, -4]  # right of the last bar: only background and lines
    plain = np.median(margin, axis=0)
    rows = np.flatnonzero(np.abs(margin - plain).sum(axis=1) > 20)
    lines = np.array([group.mean() for group in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)])[::-1]
    colored = pixels.max(axis=2) - pixels.min(axis=2) > _SATURATED
    values = {}
    columns = np.flatnonzero(colored.any(axis=0))
    for group in np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1):
        strip = colored[:, group]
        top = np.flatnonzero(strip.any(axis=1)).min()
        middle = pixels[:, group][strip]
        values[hue_name(np.median(middle, axis=0))] = int(np.abs(lines - top).argmin())
    return values


def printed(image: Image.Image, at: tuple[int, int], length: int, scale: int) -> str:
    """The characters printed at a top left pixel, each by the best matching template."""
    pixels = np.asarray(image).astype(np.int16)
    corner = np.median(pixels.reshape(-1, 3), axis=0)
    text = ""
    for k in range(length):
        x, y = at[0] + k * (WIDTH + 1) * scale, at[1]
        crop = pixels[y : y + HEIGHT * scale, x : x + WIDTH * scale]
        ink = np.abs(crop - corner).sum(axis=2) > 240
        text += max("0123456789?", key=lambda char: float((ink == glyph(char, scale)).mean()))
    return text
