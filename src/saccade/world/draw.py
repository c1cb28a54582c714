"""Renders scenes deterministically. Shapes are anti-aliased sprites, cached per shape and size."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from saccade.types import Box
from saccade.world.config import TILE
from saccade.world.glyphs import HEIGHT, WIDTH, glyph
from saccade.world.plots import contrast, draw_chart, draw_figure
from saccade.world.scene import Background, Scene, Thing

_OVERSAMPLING = 4
_SOLID = 128  # minimum alpha of a pixel that belongs to the object


def _polygon(shape: str, c: float, r: float) -> list[tuple[float, float]]:
    """Corners of a straight-edged shape around (c, c) with half-width r, in pixels."""
    if shape == "triangle":
        return [(c, c - r), (c + r, c + r), (c - r, c + r)]
    if shape == "diamond":
        return [(c, c - r), (c + 0.72 * r, c), (c, c + r), (c - 0.72 * r, c)]
    if shape == "star":
        turn = [(k * math.pi / 5 - math.pi / 2, r * (1.08 if k % 2 == 0 else 0.45)) for k in range(10)]
        return [(c + length * math.cos(a), c + 0.06 * r + length * math.sin(a)) for a, length in turn]
    arm = 0.34 * r
    near, low, high, far = c - r, c - arm, c + arm, c + r
    return [(low, near), (high, near), (high, low), (far, low), (far, high), (high, high), (high, far), (low, far),
            (low, high), (near, high), (near, low), (low, low)]  # fmt: skip


@lru_cache(maxsize=256)
def sprite(shape: str, radius: int) -> Image.Image:
    """Alpha of a shape, mode L, (2 * radius + 1) pixels square. Shared: do not write into it."""
    side = (2 * radius + 1) * _OVERSAMPLING
    image = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse([0, 0, side - 1, side - 1], fill=255)
    elif shape == "square":
        inset = round(0.08 * side)
        pen.rectangle([inset, inset, side - 1 - inset, side - 1 - inset], fill=255)
    elif shape == TILE:
        pen.rectangle([0, 0, side - 1, side - 1], fill=255)
    else:
        pen.polygon(_polygon(shape, (side - 1) / 2, (side - 1) / 2), fill=255)
    return image.resize((2 * radius + 1, 2 * radius + 1), Image.Resampling.BOX)


@lru_cache(maxsize=256)
def solid(shape: str, radius: int) -> np.ndarray:
    """Pixels that belong to a shape, bool [2r + 1, 2r + 1]. Shared: do not write into it."""
    return np.asarray(sprite(shape, radius)) >= _SOLID


@lru_cache(maxsize=256)
def solid_extent(shape: str, radius: int) -> tuple[int, int, int, int]:
    """Tight box of a shape's pixels: x1, y1, x2, y2 relative to the center pixel."""
    x1, y1, x2, y2 = mask_box(solid(shape, radius))
    return int(x1) - radius, int(y1) - radius, int(x2) - radius, int(y2) - radius


def mask_box(mask: np.ndarray) -> Box:
    """Tight xyxy box of the true pixels of [H, W], edges exclusive at the right and below; ValueError when empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ValueError(f"a box needs at least one true pixel; got none in a mask of shape {mask.shape}")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def id_buffer(objects: tuple[Thing, ...], size: tuple[int, int]) -> np.ndarray:
    """The index in `objects` of the object that owns each pixel, or -1; int16 [H, W]."""
    width, height = size
    owner = np.full((height, width), -1, dtype=np.int16)
    for place in sorted(range(len(objects)), key=lambda i: objects[i].z):
        thing = objects[place]
        mask, r = solid(thing.shape, thing.radius), thing.radius
        x, y = thing.center[0] - r, thing.center[1] - r
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + 2 * r + 1, width), min(y + 2 * r + 1, height)
        owner[top:bottom, left:right][mask[top - y : bottom - y, left - x : right - x]] = place
    return owner


def _plain(image: Image.Image, ground: Background) -> Image.Image:
    image.paste(ground.tones[0], (0, 0, *image.size))
    return image


def _gradient(image: Image.Image, ground: Background) -> Image.Image:
    start, end = (np.array(tone, dtype=np.float32) for tone in ground.tones)
    width, height = image.size
    along = np.linspace(0.0, 1.0, width if ground.seed % 2 else height, dtype=np.float32)[:, None]
    line = (start + (end - start) * along).astype(np.uint8)
    line = line[None] if ground.seed % 2 else line[:, None]
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(line, (height, width, 3))))


def _noise(image: Image.Image, ground: Background) -> Image.Image:
    # RandomState, because its stream is frozen across numpy versions
    grain = np.random.RandomState(ground.seed).randint(-9, 10, size=(image.size[1], image.size[0], 1))
    return Image.fromarray(np.clip(np.array(ground.tones[0]) + grain, 0, 255).astype(np.uint8))


def _stripes(image: Image.Image, ground: Background) -> Image.Image:
    step = 5 + ground.seed % 5
    xs, ys = np.arange(image.size[0])[None, :], np.arange(image.size[1])[:, None]
    band = ((xs + ys if ground.seed % 3 == 0 else xs + 0 * ys if ground.seed % 3 == 1 else ys + 0 * xs) // step) % 2
    return Image.fromarray(np.array(ground.tones, dtype=np.uint8)[band])


def _checker(image: Image.Image, ground: Background) -> Image.Image:
    step = 6 + ground.seed % 5
    xs, ys = np.arange(image.size[0])[None, :] // step, np.arange(image.size[1])[:, None] // step
    return Image.fromarray(np.array(ground.tones, dtype=np.uint8)[(xs + ys) % 2])


def _clutter(image: Image.Image, ground: Background) -> Image.Image:
    rng = random.Random(ground.seed)
    pen = ImageDraw.Draw(_plain(image, ground))
    for _ in range(14):
        ends = [rng.randrange(image.size[k % 2]) for k in range(4)]
        pen.line(ends, fill=ground.tones[1], width=rng.randint(1, 2))
    return image


BACKGROUNDS: dict[str, Callable[[Image.Image, Background], Image.Image]] = {
    "plain": _plain,
    "gradient": _gradient,
    "noise": _noise,
    "stripes": _stripes,
    "checker": _checker,
    "clutter": _clutter,
}


def digit_scale(radius: int) -> int:
    """Pixels per glyph dot on a tile of half-width `radius`."""
    return max(1, (2 * radius - 3) // HEIGHT)


@lru_cache(maxsize=256)
def _digit(digit: int, scale: int) -> Image.Image:
    return Image.fromarray(glyph(str(digit), scale).astype(np.uint8) * 255)


def draw_thing(image: Image.Image, thing: Thing) -> None:
    """Paint one object into an RGB image."""
    x, y, r = *thing.center, thing.radius
    image.paste(thing.rgb, (x - r, y - r), sprite(thing.shape, r))
    if thing.digit is not None:
        scale = digit_scale(r)
        at = (x - (WIDTH * scale) // 2, y - (HEIGHT * scale) // 2)
        image.paste(contrast(thing.rgb), at, _digit(thing.digit, scale))


def render(scene: Scene) -> Image.Image:
    """The image of a scene, RGB, `scene.size`; the same scene gives the same bytes."""
    image = BACKGROUNDS[scene.background.style](Image.new("RGB", scene.size), scene.background)
    for thing in sorted(scene.objects, key=lambda t: t.z):
        draw_thing(image, thing)
    if scene.bars:
        draw_chart(image, scene)
    if scene.figure is not None:
        draw_figure(image, scene, scene.figure)
    return image
