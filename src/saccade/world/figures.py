"""Labeled figures: the third angle of a triangle, Pythagoras, area and perimeter of a rectangle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from saccade.world.config import COLORS, WorldConfig
from saccade.world.glyphs import HEIGHT, text_mask
from saccade.world.question import Question, Step, TaskKind
from saccade.world.sampling import background, paint
from saccade.world.scene import Background, Figure, Scene, TextLabel
from saccade.world.splits import Split

TRIPLES = ((3, 4, 5), (5, 12, 13), (6, 8, 10), (8, 15, 17), (9, 12, 15), (12, 16, 20), (7, 24, 25), (15, 20, 25))
QUESTION_KINDS = {"triangle": ("angle",), "right triangle": ("hypotenuse", "leg"), "rectangle": ("area", "perimeter")}
"""Figure -> kinds of questions about it."""
SIDES = (2, 12)
_FRAME = 112  # size in pixels of the layout below, which is scaled


@dataclass(frozen=True, slots=True)
class FigureQuery:
    """The quantity in question: angle, hypotenuse, leg, area or perimeter."""

    kind: str


FigureDraft = tuple[str, list[tuple[float, float]], list[tuple[str, str, float, float]]]
"""Name, corners, and labels as (text, role, x, y) with the center of the glyphs, all on a frame of 112 pixels."""


def _triangle(rng: Random) -> FigureDraft:
    """Two printed angles, multiples of 5, drawn to scale. The third corner has a question mark."""
    while True:
        a, b = 5 * rng.randint(6, 24), 5 * rng.randint(6, 24)
        if 25 <= 180 - a - b <= 120 and abs(a - b) < 75:
            break
    first, second = math.radians(a), math.radians(b)
    across = math.sin(second) * math.cos(first) / math.sin(first + second)  # x of the apex, for a base of length 1
    height = math.sin(first) * math.sin(second) / math.sin(first + second)
    low, high = min(0.0, across), max(1.0, across)
    scale = min(64 / (high - low), 58 / height)
    x0 = 56 - scale * (low + high) / 2
    apex = (x0 + scale * across, 84 - scale * height)
    corners = [(x0, 84.0), (x0 + scale, 84.0), apex]
    texts = [str(a), str(b), "?"]
    distance = max(scale, 40.0)  # keeps the two lower labels apart
    middle = x0 + scale / 2
    spots = [(middle - distance / 2, 96.0), (middle + distance / 2, 96.0), (apex[0], apex[1] - 12)]
    return "triangle", corners, [(t, "angle", x, y) for t, (x, y) in zip(texts, spots, strict=True)]


def _right_triangle(rng: Random) -> FigureDraft:
    """Two sides of a Pythagorean triple printed, the third a question mark. Leg ratios are clipped to 1:2."""
    legs = list(rng.choice(TRIPLES))
    hypotenuse = legs.pop()
    rng.shuffle(legs)
    wide, tall = legs
    ratio = min(2.0, max(0.5, tall / wide))
    scale = min(62.0, 58 / ratio)
    x0, y0 = 36.0, 84.0
    hidden = rng.randrange(3)
    names = ["?" if k == hidden else str(v) for k, v in enumerate((wide, tall, hypotenuse))]
    corners = [(x0, y0), (x0 + scale, y0), (x0, y0 - scale * ratio)]
    spots = [(x0 + scale / 2, 96.0), (18.0, y0 - scale * ratio / 2), (x0 + scale / 2 + 15, y0 - scale * ratio / 2 - 9)]
    roles = ("leg", "leg", "hypotenuse")
    return "right triangle", corners, [(n, r, *spot) for n, r, spot in zip(names, roles, spots, strict=True)]


def _rectangle(rng: Random) -> FigureDraft:
    """Width and height printed; the aspect ratio is clipped to 1:2."""
    wide, tall = rng.randint(*SIDES), rng.randint(*SIDES)
    ratio = min(2.0, max(0.5, tall / wide))
    scale = min(62.0, 62 / ratio)
    x0, y0 = 36.0, 84.0
    corners = [(x0, y0), (x0 + scale, y0), (x0 + scale, y0 - scale * ratio), (x0, y0 - scale * ratio)]
    labels = [(str(wide), "width", x0 + scale / 2, 96.0), (str(tall), "height", 18.0, y0 - scale * ratio / 2)]
    return "rectangle", corners, labels


DRAFTS = {"triangle": _triangle, "right triangle": _right_triangle, "rectangle": _rectangle}


def sample_figure(rng: Random, cfg: WorldConfig, split: Split, kind: str) -> Scene:
    """A geometry scene with one figure."""
    name, corners, texts = DRAFTS[rng.choice(tuple(DRAFTS))](rng)
    factor = cfg.size_px / _FRAME
    scale = max(1, round(2 * factor))
    shift = (rng.uniform(-3, 3), rng.uniform(-3, 3))
    points = tuple((round((x + shift[0]) * factor), round((y + shift[1]) * factor)) for x, y in corners)
    labels = []
    for text, role, x, y in texts:
        width = text_mask(text, scale).shape[1]
        left = round((x + shift[0]) * factor - width / 2)
        left = min(max(1, left), cfg.size_px - width - 1)
        top = max(1, round((y + shift[1]) * factor - HEIGHT * scale / 2))
        labels.append(TextLabel(text, role, (left, top), scale))
    ground = background(rng, split)
    plain = Background("plain", ground.tones, ground.seed)
    figure = Figure(name, points, tuple(labels), paint(rng, rng.choice(COLORS), split.palette_shift))
    return Scene(kind, (cfg.size_px, cfg.size_px), cfg.cells, (), plain, figure=figure)


def _angle(numbers: dict[str, list[int]]) -> tuple[int, tuple[str, ...]] | None:
    a, b = numbers["angle"]
    if a + b >= 180:
        return None
    return 180 - a - b, (f"{a} + {b} = {a + b}", f"180 - {a + b} = {180 - a - b}")


def _hypotenuse(numbers: dict[str, list[int]]) -> tuple[int, tuple[str, ...]] | None:
    a, b = numbers["leg"]
    total = a * a + b * b
    root = math.isqrt(total)
    squares = (f"{a} * {a} = {a * a}", f"{b} * {b} = {b * b}")
    steps = (*squares, f"{a * a} + {b * b} = {total}", f"{total} = {root} * {root}")
    return (root, steps) if root * root == total else None


def _leg(numbers: dict[str, list[int]]) -> tuple[int, tuple[str, ...]] | None:
    (c,), (a,) = numbers["hypotenuse"], numbers["leg"]
    rest = c * c - a * a
    root = math.isqrt(max(0, rest))
    steps = (f"{c} * {c} = {c * c}", f"{a} * {a} = {a * a}", f"{c * c} - {a * a} = {rest}", f"{rest} = {root} * {root}")
    return (root, steps) if root > 0 and root * root == rest else None


def _area(numbers: dict[str, list[int]]) -> tuple[int, tuple[str, ...]]:
    (w,), (h,) = numbers["width"], numbers["height"]
    return w * h, (f"{w} * {h} = {w * h}",)


def _perimeter(numbers: dict[str, list[int]]) -> tuple[int, tuple[str, ...]]:
    (w,), (h,) = numbers["width"], numbers["height"]
    return 2 * (w + h), (f"{w} + {h} = {w + h}", f"2 * {w + h} = {2 * (w + h)}")


SOLVERS = {"angle": _angle, "hypotenuse": _hypotenuse, "leg": _leg, "area": _area, "perimeter": _perimeter}
TEXTS = {
    "angle": "What is the angle marked with the question mark?",
    "hypotenuse": "How long is the side marked with the question mark?",
    "leg": "How long is the side marked with the question mark?",
    "area": "What is the area of the rectangle?",
    "perimeter": "What is the perimeter of the rectangle?",
}


def ask_figure(query: FigureQuery, scene: Scene) -> Question | None:
    """The missing number; None when it is not an integer."""
    figure = scene.figure
    if figure is None or query.kind not in QUESTION_KINDS[figure.name]:
        return None
    numbers: dict[str, list[int]] = {}
    for label in figure.labels:
        if label.text != "?":
            numbers.setdefault(label.role, []).append(int(label.text))
    solved = SOLVERS[query.kind](numbers)
    if solved is None:
        return None
    answer, lines = solved
    read = Step(tuple(label.text for label in figure.labels if label.text != "?"))
    steps = (read, *(Step((line,)) for line in lines))
    return Question("geometry", TEXTS[query.kind], str(answer), (), steps, query, scene, level=query.kind)


def propose_figure(scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> list[FigureQuery]:
    """The questions possible for this figure."""
    if scene.figure is None:
        return []
    hidden = [label.role for label in scene.figure.labels if label.text == "?"]
    return [FigureQuery(kind) for kind in hidden or QUESTION_KINDS[scene.figure.name]]


KINDS = {
    "geometry": TaskKind(
        ("geometry",),
        propose_figure,
        ask_figure,
        lambda rng, cfg, split: rng.choice(tuple(SOLVERS)),
        lambda q: q.level,
    ),
}
