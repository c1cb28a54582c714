"""Differences: two images of which the second has one object changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from saccade.world.config import COLORS, HELD_OUT, SHAPES, SIZES, WorldConfig
from saccade.world.question import Question, Step, TaskKind, integer_box
from saccade.world.sampling import new_thing, paint, place, put_in_cell, radius_of, seen
from saccade.world.scene import Scene, Thing, reading_order
from saccade.world.splits import Split

Change = Callable[[Thing, Scene, Random, WorldConfig, Split], Thing]


@dataclass(frozen=True, slots=True)
class Difference:
    """What changed between a scene and `after`; `kind` is a key of `CHANGES`."""

    after: Scene
    kind: str


def _recolored(thing: Thing, scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> Thing:
    color = rng.choice([c for c in COLORS if c != thing.color])
    return replace(thing, color=color, rgb=paint(rng, color, split.palette_shift))


def _reshaped(thing: Thing, scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> Thing:
    shape = rng.choice([s for s in SHAPES if s != thing.shape])
    return place(cfg, replace(thing, shape=shape), thing.center, scene.cells)


def _resized(thing: Thing, scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> Thing:
    size = SIZES[1 - SIZES.index(thing.size)]
    changed = replace(thing, size=size, radius=radius_of(cfg, thing.shape, size))
    return _settle(changed, thing.index, scene, rng, cfg)


def _moved(thing: Thing, scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> Thing:
    return _settle(thing, rng.choice(_empty_cells(scene)), scene, rng, cfg)


def _appeared(thing: Thing, scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> Thing:
    look = (rng.choice(COLORS), rng.choice(SHAPES))
    fresh = new_thing(rng, cfg, look, len(scene.objects), split.palette_shift)
    return _settle(fresh, rng.choice(_empty_cells(scene)), scene, rng, cfg)


CHANGES: dict[str, Change] = {
    "recolored": _recolored,
    "reshaped": _reshaped,
    "resized": _resized,
    "moved": _moved,
    "appeared": _appeared,
}


def _empty_cells(scene: Scene) -> list[int]:
    taken = {thing.index for thing in scene.objects}
    return [cell for cell in range(scene.cells**2) if cell not in taken]


def _settle(thing: Thing, cell: int, scene: Scene, rng: Random, cfg: WorldConfig) -> Thing:
    return put_in_cell(rng, cfg, thing, cell, scene.cells)


def change(kind: str, scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> Scene | None:
    """The scene with one change, or None where it would break the split's or the layout's rules."""
    if not _empty_cells(scene):
        return None
    old = rng.choice(scene.objects)
    new = CHANGES[kind](old, scene, rng, cfg, split)
    if (new.color, new.shape) in HELD_OUT and not split.held_out:
        return None
    others = list(scene.objects) if kind == "appeared" else [t for t in scene.objects if t is not old]
    things: list[Thing] | None = [*others, new]
    if scene.layout == "free":
        things = seen([*others, new], scene.size, cfg.visible_share)
    return replace(scene, objects=reading_order(things)) if things else None


def _identity(thing: Thing) -> tuple[object, ...]:
    """What a viewer compares; the box is left out, for a neighbour may have come out of hiding."""
    return thing.color, thing.shape, thing.size, thing.center


def ask_difference(query: Difference, scene: Scene) -> Question | None:
    """The box, in the second image, of the one object that is not in the first; None unless exactly one is."""
    after = query.after
    before_ids, after_ids = {_identity(t) for t in scene.objects}, {_identity(t) for t in after.objects}
    fresh = [t for t in after.objects if _identity(t) not in before_ids]
    gone = [t for t in scene.objects if _identity(t) not in after_ids]
    if len(fresh) != 1 or len(gone) > 1:
        return None
    (target,) = fresh
    entries = []
    for thing in reading_order([*after.objects, *(t for t in gone if t.cell != target.cell)]):
        if thing is target:
            was = next((_named(t) for t in gone if t.cell == target.cell), "none")
            entries.append(f"{thing.cell} {was} to {_named(thing)}")
        elif thing in gone:
            entries.append(f"{thing.cell} {_named(thing)} to none")
        else:
            entries.append(f"{thing.cell} same")
    steps = (Step(tuple(entries)), Step((f"so {target.cell}",)))
    text = "One object differs in the second image. Where is it in the second image?"
    pair = replace(scene, after=after)
    answer, meta = integer_box(target.box), (("image_index", 1),)
    return Question("difference", text, answer, (target,), steps, query, pair, level=query.kind, meta=meta)


def _named(thing: Thing) -> str:
    return f"{thing.size} {thing.color} {thing.shape}"


def propose_difference(scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> list[Difference]:
    """Each kind of change tried once."""
    changed = ((kind, change(kind, scene, rng, cfg, split)) for kind in CHANGES)
    return [Difference(after, kind) for kind, after in changed if after is not None]


KINDS = {
    "difference": TaskKind(
        ("shapes",),
        propose_difference,
        ask_difference,
        lambda rng, cfg, split: rng.choice(tuple(CHANGES)),
        lambda q: q.level,
        images=2,
    ),
}
