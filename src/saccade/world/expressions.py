"""Referring expressions as a small tree: attributes, relations, ordinals, superlatives, negation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from saccade.world.question import What
from saccade.world.scene import Scene, Thing

SIDES: dict[str, tuple[int, int]] = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}
"""Side -> (axis, sign): sorting centers by sign * coordinate starts at that side."""

RELATIONS: dict[str, tuple[str, str]] = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "top": ("above", "above"),
    "bottom": ("below", "below"),
}
"""Side -> wording of the relation in a question and in a chain."""

ORDINALS = ("first", "second", "third", "fourth")
_EXTREME = {"left": "leftmost", "right": "rightmost", "top": "topmost", "bottom": "bottommost"}


@dataclass(frozen=True, slots=True)
class Expression:
    """`kind` is attribute, relation, ordinal, superlative or negation; the other fields hold its arguments."""

    kind: str
    head: What
    side: str = ""
    """left, right, top, bottom; for a superlative also largest, smallest."""
    rank: int = 0
    """Rank of an ordinal, from 0."""
    anchor: Expression | None = None
    exclude: str = ""
    """The shape that a negation excludes."""

    @property
    def text(self) -> str:
        """The noun phrase without an article: 'red circle to the left of the blue star'."""
        if self.kind == "relation" and self.anchor is not None:
            chained = " that is" if self.anchor.kind == "relation" else ""
            return f"{self.head.one}{chained} {RELATIONS[self.side][0]} the {self.anchor.text}"
        if self.kind == "ordinal":
            return f"{ORDINALS[self.rank]} {self.head.one} from the {self.side}"
        if self.kind == "superlative":
            return f"{_EXTREME.get(self.side, self.side)} {self.head.one}"
        if self.kind == "negation":
            return f"{self.head.one} that is not a {self.exclude}"
        return self.head.one


def beyond(thing: Thing, anchor: Thing, side: str, margin: float) -> bool:
    """True when the center is more than `margin` pixels further to that side than the anchor's."""
    axis, sign = SIDES[side]
    return sign * (anchor.center[axis] - thing.center[axis]) > margin


def first_from(things: Iterable[Thing], side: str, rank: int, margin: float) -> tuple[Thing, ...]:
    """The object of that rank from a side, or nothing when its neighbors in rank are within `margin` pixels."""
    axis, sign = SIDES[side]
    line = sorted(things, key=lambda thing: sign * thing.center[axis])
    if rank >= len(line):
        return ()
    near = line[max(0, rank - 1) : rank] + line[rank + 1 : rank + 2]
    clear = all(abs(other.center[axis] - line[rank].center[axis]) > margin for other in near)
    return (line[rank],) if clear else ()


def resolve(expression: Expression, scene: Scene) -> tuple[Thing, ...]:
    """All objects that the expression can denote, in reading order; it is a valid reference if there is exactly one."""
    margin = scene.size[0] / scene.cells / 2  # half a cell: neighbors in one row or column are never that far apart
    among = expression.head.among(scene.objects)
    if expression.kind == "relation" and expression.anchor is not None:
        anchors = resolve(expression.anchor, scene)
        if len(anchors) != 1:
            return ()
        return tuple(t for t in among if t is not anchors[0] and beyond(t, anchors[0], expression.side, margin))
    if expression.kind == "ordinal":
        return first_from(among, expression.side, expression.rank, margin)
    if expression.kind == "superlative":
        if expression.side in SIDES:
            return first_from(among, expression.side, 0, margin)
        target = "large" if expression.side == "largest" else "small"
        return tuple(thing for thing in among if thing.size == target)
    if expression.kind == "negation":
        return tuple(thing for thing in among if thing.shape != expression.exclude)
    return among
