"""Difference questions: two images, where one object has changed in the second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from saccade.world.config import COLORS, HELD_OUT, SHAPES, SIZES, WorldConfig
from saccade.world.question import Question, Step, TaskKind, integer_box
from saccade.world.sampling import new_thing, paint, place, put_in_cell, radius_of, sample_objects, seen
from saccade.world.scene import Scene, Thing, reading_order
from saccade.world.splits import Split

_META = (("image_index", 1),)
SceneChange = Callable[[Thing, Scene, Random, WorldConfig, Split], Thing]


@dataclass(frozen=True, slots=True)
class DifferenceQuery:
    """The object that is new in the second image of a pair."""


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


CHANGES: dict[str, SceneChange] = {
    "recolored": _recolored,
    "reshaped": _reshaped,
    "resized": _resized,
    "moved": _moved,
    "appeared": _appeared,
}


def _empty_cells(scene: Scene) -> list[int]:
    occupied = {thing.index for thing in scene.objects}
    return [cell for cell in range(scene.cells**2) if cell not in occupied]


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


def sample_pair(rng: Random, cfg: WorldConfig, split: Split, kind: str) -> Scene:
    """A scene of shapes with its changed copy in `after`; each kind of change is equally likely."""
    how = rng.choice(tuple(CHANGES))
    while True:
        scene = replace(sample_objects(rng, cfg, split, "shapes"), kind=kind)
        after = change(how, scene, rng, cfg, split)
        if after is not None:
            return replace(scene, after=after)


def _identity(thing: Thing) -> tuple[object, ...]:
    """The attributes to compare; not the box, which changes when an occluding neighbor moves."""
    return thing.color, thing.shape, thing.size, thing.center


def _kind_of(target: Thing, removed: list[Thing]) -> str:
    """The key of `CHANGES` that turned the removed object into the target."""
    if not removed:
        return "appeared"
    old = removed[0]
    if old.color != target.color:
        return "recolored"
    if old.shape != target.shape:
        return "reshaped"
    return "resized" if old.size != target.size else "moved"


def ask_difference(query: DifferenceQuery, scene: Scene) -> Question | None:
    """The box, in the second image, of the one object that is not in the first; None unless exactly one is."""
    if scene.after is None:
        return None
    before_ids, after_ids = ({_identity(t) for t in s.objects} for s in (scene, scene.after))
    fresh = [t for t in scene.after.objects if _identity(t) not in before_ids]
    removed = [t for t in scene.objects if _identity(t) not in after_ids]
    if len(fresh) != 1 or len(removed) > 1:
        return None
    (target,) = fresh
    entries = []
    for thing in reading_order([*scene.after.objects, *(t for t in removed if t.cell != target.cell)]):
        if thing is target:
            was = next((_named(t) for t in removed if t.cell == target.cell), "none")
            entries.append(f"{thing.cell} {was} to {_named(thing)}")
        elif thing in removed:
            entries.append(f"{thing.cell} {_named(thing)} to none")
        else:
            entries.append(f"{thing.cell} same")
    steps = (Step(tuple(entries)), Step((f"so {target.cell}",)))
    text = "One object differs in the second image. Where is it in the second image?"
    level, answer = _kind_of(target, removed), integer_box(target.box)
    return Question("difference", text, answer, (target,), steps, query, scene, level=level, meta=_META)


def _named(thing: Thing) -> str:
    return f"{thing.size} {thing.color} {thing.shape}"


KINDS = {
    "difference": TaskKind(
        ("pair",),
        lambda scene, rng, cfg, split: [DifferenceQuery()],
        ask_difference,
        lambda rng, cfg, split: None,  # the kind of change is drawn with the scene
        lambda q: None,
    ),
}
