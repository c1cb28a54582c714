"""Samples scenes of objects as a pure function of the given random generator."""

from __future__ import annotations

import colorsys
import random
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from saccade.types import Box
from saccade.world.config import COLORS, DIGITS, HELD_OUT, PALETTE, SHAPES, SIZES, TILE, Rgb, WorldConfig
from saccade.world.draw import digit_scale, id_buffer, mask_box, solid, solid_extent
from saccade.world.glyphs import HEIGHT, WIDTH
from saccade.world.scene import Background, Scene, Thing, cell_name, reading_order
from saccade.world.splits import Split

RADII = {"small": 7.0, "large": 11.0}
TILE_RADII = {"small": 9.0, "large": 11.0}
LARGER_OBJECTS = (9, 12)
_SHADE = 10
_LAYOUT_ATTEMPTS = 60


def weights(rng: random.Random, n: int, skew: float) -> list[float]:
    """Unnormalized Dirichlet weights, all positive."""
    return [rng.gammavariate(skew, 1.0) + 1e-3 for _ in range(n)]


def paint(rng: random.Random, color: str, shifted: bool) -> Rgb:
    """A shade of a named color. The shifted palette is paler or darker, with slightly rotated hue."""
    rgb = PALETTE[color]
    if shifted:
        hue, light, saturation = colorsys.rgb_to_hls(*(v / 255 for v in rgb))
        light = min(0.72, max(0.24, light + rng.choice((-0.07, 0.08))))
        rotated = colorsys.hls_to_rgb((hue + rng.choice((-0.012, 0.012))) % 1.0, light, saturation * 0.8)
        rgb = _rgb(round(255 * v) for v in rotated)
    shade = rng.randint(-_SHADE, _SHADE)
    return _rgb(v + shade for v in rgb)


def _rgb(values: Iterable[int]) -> Rgb:
    red, green, blue = (min(255, max(0, v)) for v in values)
    return red, green, blue


def background(rng: random.Random, split: Split) -> Background:
    """Neutral tones, light or dark, that contrast with every object color."""
    low, high = rng.choice(((14, 58), (206, 244)))
    style = rng.choice(split.backgrounds)
    tones: list[Rgb] = []
    for _ in range(2):
        gray = rng.randint(low, high)
        tones.append(_rgb(gray + rng.randint(-6, 6) for _ in range(3)))
    if style in ("stripes", "checker", "clutter"):
        step = 26 if low < 100 else -26
        tones[1] = _rgb(v + step for v in tones[0])
    return Background(style, (tones[0], tones[1]), rng.randrange(1 << 30))


def looks(rng: random.Random, n: int, cfg: WorldConfig, held_out: bool) -> list[tuple[str, str]]:
    """n color-shape pairs with skewed frequencies; held-out pairs occur (at least once) only if `held_out`."""
    color_weights, shape_weights = weights(rng, len(COLORS), cfg.skew), weights(rng, len(SHAPES), cfg.skew)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < n:
        pair = (rng.choices(COLORS, color_weights)[0], rng.choices(SHAPES, shape_weights)[0])
        if held_out or pair not in HELD_OUT:
            pairs.append(pair)
        elif rng.random() < 0.3:  # redraw, since weights that favor a held-out pair would loop for long
            color_weights, shape_weights = weights(rng, len(COLORS), cfg.skew), weights(rng, len(SHAPES), cfg.skew)
    if held_out:
        for place in rng.sample(range(n), min(n, rng.randint(1, 3))):
            pairs[place] = rng.choice(sorted(HELD_OUT))
    rng.shuffle(pairs)
    return pairs


def radius_of(cfg: WorldConfig, shape: str, size: str) -> int:
    """Half-width in pixels of a drawn object."""
    return cfg.scaled((TILE_RADII if shape == TILE else RADII)[size])


def box_at(shape: str, radius: int, center: tuple[int, int]) -> Box:
    """Tight box of a fully visible shape around a center pixel."""
    x1, y1, x2, y2 = solid_extent(shape, radius)
    return center[0] + x1, center[1] + y1, center[0] + x2, center[1] + y2


def _grid_center(rng: random.Random, cfg: WorldConfig, cell: tuple[int, int], radius: int) -> tuple[int, int]:
    """A jittered center that keeps the object inside its cell."""
    stray = cfg.scaled(cfg.jitter)
    low = max(radius, cfg.cell_px // 2 - stray)
    high = max(low, min(cfg.cell_px - 1 - radius, (cfg.cell_px - 1) // 2 + stray))
    return cell[0] * cfg.cell_px + rng.randint(low, high), cell[1] * cfg.cell_px + rng.randint(low, high)


def place(cfg: WorldConfig, thing: Thing, center: tuple[int, int], cells: int) -> Thing:
    """The same object at another center, with its cell and box."""
    column, row = (min(cells - 1, v // cfg.cell_px) for v in center)
    box = box_at(thing.shape, thing.radius, center)
    return replace(thing, center=center, box=box, cell=cell_name(column, row), index=row * cells + column, visible=1.0)


def put_in_cell(rng: random.Random, cfg: WorldConfig, thing: Thing, cell: int, cells: int) -> Thing:
    """The same object in another cell of the grid."""
    return place(cfg, thing, _grid_center(rng, cfg, (cell % cells, cell // cells), thing.radius), cells)


def new_thing(rng: random.Random, cfg: WorldConfig, look: tuple[str, str], z: int, shifted: bool) -> Thing:
    """An object of a color and shape, without a position."""
    color, shape = look
    size = rng.choice(SIZES)
    digit = rng.choice(DIGITS) if shape == TILE else None
    radius = radius_of(cfg, shape, size)
    return Thing(color, shape, size, digit, (0, 0, 0, 0), "a1", 0, z, paint(rng, color, shifted), (0, 0), radius)


def _free(rng: random.Random, cfg: WorldConfig, things: list[Thing], cells: int) -> list[Thing]:
    """Place objects anywhere so that `visible_share` of each is visible; objects that do not fit are skipped."""
    side, kept = cells * cfg.cell_px, []
    for thing in things:
        for _ in range(_LAYOUT_ATTEMPTS):
            low, high = thing.radius, side - 1 - thing.radius
            center = (rng.randint(low, high), rng.randint(low, high))
            trial = seen([*kept, place(cfg, thing, center, cells)], (side, side), cfg.visible_share)
            if trial is not None:
                kept = trial
                break
    return kept


def seen(things: list[Thing], size: tuple[int, int], share: float) -> list[Thing] | None:
    """The objects with the boxes and shares of their visible pixels.

    None when less than `share` of one is visible, when a tile's digit is partly hidden, or when two objects of one
    color touch: their outlines would merge.
    """
    if any(a.color == b.color and _boxes_touch(a, b) for k, a in enumerate(things) for b in things[:k]):
        return None
    owner = id_buffer(tuple(things), size)
    pixels = np.bincount(owner.ravel() + 1, minlength=len(things) + 1)[1:]
    result = []
    for k, thing in enumerate(things):
        visible = float(pixels[k]) / int(solid(thing.shape, thing.radius).sum())
        if visible < share or (thing.digit is not None and not _digit_in_view(thing, owner == k)):
            return None
        result.append(replace(thing, visible=visible, box=mask_box(owner == k)))
    return result


def _boxes_touch(first: Thing, second: Thing) -> bool:
    reach = first.radius + second.radius + 1
    return all(abs(a - b) <= reach for a, b in zip(first.center, second.center, strict=True))


def _digit_in_view(thing: Thing, shown: np.ndarray) -> bool:
    """True when no pixel of the digit's rectangle, with a dot around it, is hidden."""
    (x, y), scale = thing.center, digit_scale(thing.radius)
    wide, tall = (WIDTH * scale) // 2 + 1, (HEIGHT * scale) // 2 + 1
    return bool(shown[y - tall : y + tall + 1, x - wide : x + wide + 1].all())


def sample_objects(rng: random.Random, cfg: WorldConfig, split: Split, kind: str) -> Scene:
    """A scene of shapes or of digit tiles."""
    cells, low, high = cfg.cells, cfg.objects_min, cfg.objects_max
    if split.larger:
        cells, low, high = (cells + 1, low, high) if rng.random() < 0.5 else (cells, *LARGER_OBJECTS)
    n = min(rng.randint(low, max(low, high)), cells * cells)
    if kind == "digits":
        color_weights = weights(rng, len(COLORS), cfg.skew)
        pairs = [(color, TILE) for color in rng.choices(COLORS, color_weights, k=n)]
    else:
        pairs = looks(rng, n, cfg, split.held_out)
    things = [new_thing(rng, cfg, pair, z, split.palette_shift) for z, pair in enumerate(pairs)]
    if cfg.layout == "free":
        things = _free(rng, cfg, things, cells)
    else:
        spots = rng.sample(range(cells * cells), n)
        things = [put_in_cell(rng, cfg, t, spot, cells) for t, spot in zip(things, spots, strict=True)]
    side = cells * cfg.cell_px
    return Scene(kind, (side, side), cells, reading_order(things), background(rng, split), cfg.layout)
