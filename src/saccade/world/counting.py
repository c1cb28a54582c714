"""Counting, adding and comparing: how many, what sum, how many more."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from saccade.world.config import COLORS, HELD_OUT, SHAPES, SIZES, TILE, WorldConfig
from saccade.world.question import Question, Step, TaskKind, What
from saccade.world.scene import Scene, Thing, reading_order
from saccade.world.splits import Split

ADDENDS = (2, 5)


@dataclass(frozen=True, slots=True)
class CompareQuery:
    """How many more of `first` than of `second`."""

    first: What
    second: What


def descriptions(scene: Scene, rng: Random, split: Split) -> list[What]:
    """Candidate descriptions, present or not: by color, shape, size and pairs of them."""
    if scene.kind == "digits":
        return [What(shape=TILE), *(What(color=color, shape=TILE) for color in COLORS)]
    single = [*(What(color=color) for color in COLORS), *(What(shape=shape) for shape in SHAPES)]
    pairs = [What(color=c, shape=s) for c in COLORS for s in SHAPES if split.held_out or (c, s) not in HELD_OUT]
    sized = [What(color=c, size=z) for c in COLORS for z in SIZES]
    sized += [What(shape=s, size=z) for s in SHAPES for z in SIZES]
    return [*single, *rng.sample(pairs, 12), *rng.sample(sized, 6)]


def tally(things: tuple[Thing, ...]) -> tuple[str, ...]:
    """'b1 1', 'c2 2', ...: each cell with the running count."""
    return tuple(f"{thing.cell} {count}" for count, thing in enumerate(things, 1))


def ask_count(query: What, scene: Scene) -> Question:
    """How many objects match."""
    found = query.among(scene.objects)
    text = f"How many {query.many} are there?"
    return Question("count", text, str(len(found)), found, (Step(tally(found)),), query, scene, level=query.form)


def ask_arithmetic(query: What, scene: Scene) -> Question | None:
    """The sum of the digits on the matching tiles; None unless 2 to 5 tiles match."""
    found = query.among(scene.objects)
    if not ADDENDS[0] <= len(found) <= ADDENDS[1]:
        return None
    total, entries = 0, []
    for thing in found:
        total += thing.digit or 0
        entries.append(f"{thing.cell} {thing.digit} {total}")
    text = f"What is the sum of the digits on the {query.many}?"
    return Question("arithmetic", text, str(total), found, (Step(tuple(entries)),), query, scene)


def ask_compare(query: CompareQuery, scene: Scene) -> Question | None:
    """How many more of one than of another; None when there are fewer."""
    first, second = query.first.among(scene.objects), query.second.among(scene.objects)
    more = len(first) - len(second)
    if more < 0:
        return None
    steps = (
        Step(tally(first), query.first.short),
        Step(tally(second), query.second.short),
        Step((f"{len(first)} - {len(second)} = {more}",)),
    )
    text = f"How many more {query.first.many} than {query.second.many} are there?"
    targets = reading_order({*first, *second})
    return Question("compare", text, str(more), targets, steps, query, scene, level=query.first.form)


def propose_counts(scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> list[What]:
    """Descriptions with a count of at most `count_max`."""
    return [w for w in descriptions(scene, rng, split) if len(w.among(scene.objects)) <= cfg.count_max]


def propose_sums(scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> list[What]:
    """The tiles of one color, or all tiles."""
    return [What(shape=TILE), *(What(color=color, shape=TILE) for color in COLORS)]


def propose_compares(scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> list[CompareQuery]:
    """Two colors, two shapes, or two color-shape pairs, with the more frequent first."""
    if scene.kind == "digits":
        families = [[What(color=color, shape=TILE) for color in COLORS]]
    else:
        families = [[What(color=color) for color in COLORS], [What(shape=shape) for shape in SHAPES]]
        families.append([w for w in descriptions(scene, rng, split) if w.color and w.shape])
    queries = []
    for family in families:
        counted = [(len(what.among(scene.objects)), what) for what in family]
        counted = [(n, what) for n, what in counted if n <= cfg.count_max]
        rng.shuffle(counted)
        queries += [
            CompareQuery(a, b)
            for n, a in counted
            for m, b in counted
            if a != b and 0 <= n - m <= cfg.compare_max and n > 0
        ]
    rng.shuffle(queries)
    return queries


def _count_class(rng: Random, cfg: WorldConfig, split: Split) -> int:
    return rng.randint(1 if split.held_out else 0, cfg.count_max)


KINDS = {
    "count": TaskKind(("shapes", "digits"), propose_counts, ask_count, _count_class, lambda q: int(q.answer)),
    "arithmetic": TaskKind(
        ("digits",),
        propose_sums,
        ask_arithmetic,
        lambda rng, cfg, split: rng.randint(ADDENDS[0], min(ADDENDS[1], cfg.objects_max)),
        lambda q: len(q.targets),
    ),
    "compare": TaskKind(
        ("shapes", "digits"),
        propose_compares,
        ask_compare,
        lambda rng, cfg, split: rng.randint(0, cfg.compare_max),
        lambda q: int(q.answer),
    ),
}
