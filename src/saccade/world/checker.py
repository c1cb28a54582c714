"""An independent checker: parses the question, measures the pixels, recomputes the answer by brute force.

It shares the renderer, the glyphs and the vocabulary with the generator, but no code that makes or answers questions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from saccade.types import Sample
from saccade.world.config import COLORS, SHAPES, SIZES, TILE
from saccade.world.generator import WorldItem
from saccade.world.measure import MeasuredThing, bar_values, measure, printed
from saccade.world.scene import Scene

_RELATIONS = {"to the left of": (0, -1), "to the right of": (0, 1), "above": (1, -1), "below": (1, 1)}
_ENDS = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}
_EXTREMES = {"leftmost": "left", "rightmost": "right", "topmost": "top", "bottommost": "bottom"}
_RANKS = {"first": 0, "second": 1, "third": 2, "fourth": 3}
_RELATION = re.compile(r"^(.+?)(?: that is)? (to the left of|to the right of|above|below) the (.+)$", re.DOTALL)
_MARGIN = 0.5  # of a cell: centers closer than that share a row or a column


def _described(phrase: str, things: Sequence[MeasuredThing]) -> list[MeasuredThing]:
    """Objects matched by a noun phrase of size, color and noun, singular or plural."""
    fits = list(things)
    for word in phrase.split():
        noun = next((n for n in (*SHAPES, TILE, "object") if word in (n, n + "s", n + "es")), None)
        if word in COLORS:
            fits = [t for t in fits if t.color == word]
        elif word in SIZES:
            fits = [t for t in fits if t.size == word]
        elif noun is None:
            raise ValueError(f"the checker does not know the word {word!r} in {phrase!r}")
        elif noun != "object":
            fits = [t for t in fits if t.shape == noun]
    return fits


def _ranked(fits: list[MeasuredThing], side: str, rank: int, pitch: float) -> list[MeasuredThing]:
    """The object with exactly `rank` others clearly closer to the side, if there is no tie."""
    axis, sign = _ENDS[side]
    result = []
    for thing in fits:
        gaps = [sign * (other.center[axis] - thing.center[axis]) for other in fits if other is not thing]
        if sum(gap > 0 for gap in gaps) == rank and all(abs(gap) > _MARGIN * pitch for gap in gaps):
            result.append(thing)
    return result


def referents(phrase: str, things: Sequence[MeasuredThing], pitch: float) -> list[MeasuredThing]:
    """All objects that a referring phrase can denote. `pitch` is the side of a cell in pixels."""
    related = _RELATION.match(phrase)
    if related:
        head, relation, rest = related.groups()
        anchors = referents(rest, things, pitch)
        if len(anchors) != 1:
            return []
        axis, sign = _RELATIONS[relation]
        start = anchors[0].center[axis]
        fits = [t for t in _described(head, things) if t is not anchors[0]]
        return [t for t in fits if sign * (t.center[axis] - start) > _MARGIN * pitch]
    negated = re.match(r"^(.+) that is not an? (\w+)$", phrase)
    if negated:
        return [t for t in _described(negated[1], things) if t.shape != negated[2]]
    ordinal = re.match(r"^(first|second|third|fourth) (.+) from the (left|right|top|bottom)$", phrase)
    if ordinal:
        return _ranked(_described(ordinal[2], things), ordinal[3], _RANKS[ordinal[1]], pitch)
    first, _, rest = phrase.partition(" ")
    if first in _EXTREMES:
        return _ranked(_described(rest, things), _EXTREMES[first], 0, pitch)
    if first in ("largest", "smallest"):
        return _described(("large " if first == "largest" else "small ") + rest, things)
    return _described(phrase, things)


def _words(pattern: str, text: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, text)
    if found is None:
        raise ValueError(f"the checker cannot read the question {text!r}; expected {pattern!r}")
    return found.groups()


def _box(thing: MeasuredThing) -> list[int]:
    return [int(v) for v in thing.box]


def _picture(sample: Sample) -> Image.Image:
    image = sample.images[0]
    assert isinstance(image, Image.Image)  # the world decodes its images
    return image


def _count(sample: Sample, scene: Scene) -> Any:
    (phrase,) = _words(r"How many (.+) are there\?", sample.question)
    return str(len(_described(phrase, measure(scene))))


def _arithmetic(sample: Sample, scene: Scene) -> Any:
    (phrase,) = _words(r"What is the sum of the digits on the (.+)\?", sample.question)
    return str(sum(thing.digit or 0 for thing in _described(phrase, measure(scene))))


def _compare(sample: Sample, scene: Scene) -> Any:
    first, second = _words(r"How many more (.+) than (.+) are there\?", sample.question)
    things = measure(scene)
    return str(len(_described(first, things)) - len(_described(second, things)))


def _refer(sample: Sample, scene: Scene) -> Any:
    (phrase,) = _words(r"Where is the (.+)\?", sample.question)
    found = referents(phrase, measure(scene), scene.size[0] / scene.cells)
    return _box(found[0]) if len(found) == 1 else f"{len(found)} objects fit"


def _detect(sample: Sample, scene: Scene) -> Any:
    (labels,) = _words(r"Find every (.+)\.", sample.question)
    things = measure(scene)
    return [
        {"bbox_2d": _box(thing), "label": label}
        for label in labels.split(" and every ")
        for thing in _described(label, things)
    ]


def _chart(sample: Sample, scene: Scene) -> Any:
    values = bar_values(_picture(sample))
    named = re.findall(r"the (\w+) bar", sample.question)
    if "tallest" in sample.question:
        return str(max(values.values()) - min(values.values()))
    return str(sum(values[color] for color in named))


def _geometry(sample: Sample, scene: Scene) -> Any:
    figure = scene.figure
    if figure is None:
        return "no figure"
    numbers, hidden = [], ""
    for label in figure.labels:
        text = printed(_picture(sample), label.at, len(label.text), label.scale)
        if text == "?":
            hidden = label.role
        else:
            numbers.append(int(text))
    a, b = numbers
    if " angle " in sample.question:
        return str(180 - a - b)
    if " area " in sample.question:
        return str(a * b)
    if " perimeter " in sample.question:
        return str(a + b + a + b)
    return f"{math.hypot(a, b) if hidden == 'hypotenuse' else math.sqrt(abs(a * a - b * b)):g}"


def _choice(sample: Sample, scene: Scene) -> Any:
    things, question = measure(scene), sample.question
    if question.startswith("How many"):
        value = _count(sample, scene)
    else:
        kind, phrase = _words(r"(What color is|What shape is|Which cell holds) the (.+)\?", question)
        found = _described(phrase, things)
        if len(found) != 1:
            return f"{len(found)} objects fit"
        value = getattr(found[0], kind.split()[1])
    options = list(sample.meta["options"])
    return "ABCDEFGH"[options.index(value)] if options.count(value) == 1 else f"{value} is not one option"


def _yes_no(sample: Sample, scene: Scene) -> Any:
    things, question = measure(scene), sample.question
    if question.startswith("Are there more"):
        first, second = _words(r"Are there more (.+) than (.+)\?", question)
        return "yes" if len(_described(first, things)) > len(_described(second, things)) else "no"
    (phrase,) = _words(r"Is there an? (.+)\?", question)
    return "yes" if referents(phrase, things, scene.size[0] / scene.cells) else "no"


def _difference(sample: Sample, scene: Scene) -> Any:
    if scene.after is None:
        return "no second image"
    before = {(t.color, t.shape, t.size, t.center) for t in measure(scene)}
    fresh = [t for t in measure(scene.after) if (t.color, t.shape, t.size, t.center) not in before]
    return _box(fresh[0]) if len(fresh) == 1 else f"{len(fresh)} objects differ"


ANSWERS: dict[str, Callable[[Sample, Scene], Any]] = {
    "count": _count,
    "arithmetic": _arithmetic,
    "compare": _compare,
    "refer": _refer,
    "detect": _detect,
    "chart": _chart,
    "geometry": _geometry,
    "choice": _choice,
    "yes_no": _yes_no,
    "difference": _difference,
}


def check(item: WorldItem, visible_share: float = 0.5) -> str | None:
    """None when pixels and text give the item's answer; else the reason, with both answers.

    Every object must also have `visible_share` of its pixels visible.
    """
    sample = item.sample
    answer = ANSWERS[sample.task](sample, item.scene)
    if answer != sample.answer:
        return f"{sample.id}: {sample.question!r}: gold {sample.answer!r}, the pixels say {answer!r}"
    for scene in (item.scene, item.scene.after):
        for thing in measure(scene) if scene is not None else ():
            if thing.visible < visible_share:
                return f"{sample.id}: the {thing.color} {thing.shape} in {thing.cell} shows {thing.visible:.2f}"
    return None
