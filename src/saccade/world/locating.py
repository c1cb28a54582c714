"""Location questions: the object of a referring expression, and the boxes of all objects of some kinds."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from saccade.world.config import COLORS, HELD_OUT, SHAPES, WorldConfig
from saccade.world.expressions import ORDINALS, RELATIONS, SIDES, Expression, resolve
from saccade.world.question import Question, Step, TaskKind, What, integer_box
from saccade.world.scene import Scene, Thing, reading_order
from saccade.world.splits import Split

DETECT_MAX = 4


@dataclass(frozen=True, slots=True)
class DetectQuery:
    """Find all objects of each description."""

    labels: tuple[What, ...]


def cells(things: tuple[Thing, ...]) -> tuple[str, ...]:
    """Their cells."""
    return tuple(thing.cell for thing in things)


def candidates(expression: Expression, scene: Scene) -> list[Step]:
    """The steps that lead to an expression's object: anchors first, then the matches of the head."""
    head = expression.head
    among = head.among(scene.objects)
    if expression.kind == "attribute":
        wide = What(color=head.color) if head.color else What(shape=head.shape)
        attribute = "size" if head.size else "shape"
        return [Step(tuple(f"{t.cell} {getattr(t, attribute)}" for t in wide.among(scene.objects)), wide.short)]
    if expression.kind == "relation" and expression.anchor is not None:
        anchor, found = expression.anchor, cells(resolve(expression.anchor, scene))
        if anchor.kind != "relation":
            return [Step(found, anchor.head.short), Step(cells(among), head.short)]
        inner = Step(found, RELATIONS[anchor.side][1])
        return [*candidates(anchor, scene), inner, Step(cells(among), head.short)]
    if expression.kind == "negation":
        return [Step(tuple(f"{thing.cell} {thing.shape}" for thing in among), head.short)]
    if expression.side not in SIDES:
        return [Step(tuple(f"{thing.cell} {thing.size}" for thing in among), head.short)]
    axis, sign = SIDES[expression.side]
    line = sorted(among, key=lambda thing: sign * thing.center[axis])
    return [Step(cells(tuple(line)), f"{head.short} from {expression.side}")]


def ask_refer(query: Expression, scene: Scene) -> Question | None:
    """The question of which object is meant; None unless exactly one matches."""
    found = resolve(query, scene)
    if len(found) != 1:
        return None
    (target,) = found
    steps = (*candidates(query, scene), Step((f"so {target.cell}",)))
    text = f"Where is the {query.text}?"
    return Question("refer", text, integer_box(target.box), found, steps, query, scene, level=query.kind)


def ask_detect(query: DetectQuery, scene: Scene) -> Question:
    """All boxes, by label in the order of the query, each in reading order."""
    answer, found, steps = [], [], []
    for label in query.labels:
        things = label.among(scene.objects)
        answer += [{"bbox_2d": integer_box(thing.box), "label": label.one} for thing in things]
        found += things
        steps.append(Step(cells(things), label.short))
    text = "Find every " + " and every ".join(label.one for label in query.labels) + "."
    targets = reading_order(found)
    meta = (("labels", [label.one for label in query.labels]),)
    return Question("detect", text, answer, targets, tuple(steps), query, scene, meta=meta)


def _attributes(scene: Scene) -> list[Expression]:
    """Color and shape, or size and one of them, where color or shape alone would be ambiguous."""
    result = []
    for thing in scene.objects:
        color, shape, size = thing.color, thing.shape, thing.size
        for head in (What(color, shape), What(color, "", size), What("", shape, size)):
            wide = What(color=head.color) if head.color else What(shape=head.shape)
            if len(wide.among(scene.objects)) > 1:
                result.append(Expression("attribute", head))
    return result


def _heads(scene: Scene) -> list[What]:
    """Descriptions that match at least two objects, so that the rest of an expression is needed."""
    found = {What(color=t.color) for t in scene.objects} | {What(shape=t.shape) for t in scene.objects}
    found |= {What(t.color, t.shape) for t in scene.objects}
    return sorted((w for w in found if len(w.among(scene.objects)) > 1), key=lambda w: (w.color, w.shape))


def _anchors(scene: Scene) -> list[Expression]:
    """Plain descriptions of exactly one object."""
    found = {What(t.color, t.shape) for t in scene.objects} | {What(shape=t.shape) for t in scene.objects}
    whole = sorted((w for w in found if len(w.among(scene.objects)) == 1), key=lambda w: (w.color, w.shape))
    return [Expression("attribute", what) for what in whole]


def _relations(scene: Scene, anchors: list[Expression], any_head: bool = False) -> list[Expression]:
    heads = _heads(scene)
    if any_head:
        heads = sorted({What(t.color, t.shape) for t in scene.objects} | set(heads), key=lambda w: (w.color, w.shape))
    return [
        Expression("relation", head, side, anchor=anchor)
        for head in heads
        for anchor in anchors
        for side in SIDES
        if anchor.head != head
    ]


def propose_refer(scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> list[Expression]:
    """All expressions that denote exactly one object; in the free layout only attributes."""
    queries = _attributes(scene)
    if scene.layout == "grid":
        heads, anchors = _heads(scene), _anchors(scene)
        relations = _relations(scene, anchors)
        if split.hops > 1:
            inner = [e for e in _relations(scene, anchors, any_head=True) if len(resolve(e, scene)) == 1]
            inner = rng.sample(inner, min(len(inner), 12))
            return [e for e in _relations(scene, inner) if len(resolve(e, scene)) == 1 and _needed(e, scene)]
        queries += rng.sample(relations, min(len(relations), 40))
        for head in heads:
            n = len(head.among(scene.objects))
            queries += [Expression("ordinal", head, s, k) for s in SIDES for k in range(1, min(n, len(ORDINALS)))]
            queries += [Expression("superlative", head, s) for s in (*SIDES, "largest", "smallest")]
            if head.color and not head.shape:
                queries += [Expression("negation", head, exclude=t.shape) for t in head.among(scene.objects)]
    unique = list(dict.fromkeys(queries))
    return [query for query in unique if len(resolve(query, scene)) == 1]


def _needed(expression: Expression, scene: Scene) -> bool:
    """The far anchor differs from the target: 'the star above the circle below the star' would be odd."""
    inner = expression.anchor
    if inner is None or inner.anchor is None:
        return False
    return resolve(inner.anchor, scene) != resolve(expression, scene)


def propose_detect(scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> list[DetectQuery]:
    """One to three labels, present or absent, that share no object; at most `DETECT_MAX` boxes in all."""
    present = [What(t.color, t.shape) for t in scene.objects] + [What(shape=t.shape) for t in scene.objects]
    present += [What(color=t.color) for t in scene.objects]
    allowed = [What(c, s) for c in COLORS for s in SHAPES if split.held_out or (c, s) not in HELD_OUT]
    absent = [w for w in allowed if not w.among(scene.objects)]
    absent += [w for w in (What(shape=s) for s in SHAPES) if not w.among(scene.objects)]
    queries = []
    for _ in range(12):
        chosen: list[What] = []
        for _ in range(rng.choice((1, 1, 2, 2, 3))):
            label = rng.choice(present if rng.random() < 0.65 else absent)
            if not any(_overlap(label, other) for other in chosen):
                chosen.append(label)
        if sum(len(w.among(scene.objects)) for w in chosen) <= DETECT_MAX:
            queries.append(DetectQuery(tuple(chosen)))
    return queries


def _overlap(first: What, second: What) -> bool:
    """True when one object could match both."""
    colors = not first.color or not second.color or first.color == second.color
    return colors and (not first.shape or not second.shape or first.shape == second.shape)


def _expression_class(rng: Random, cfg: WorldConfig, split: Split) -> str:
    if split.hops > 1:
        if "relation" not in cfg.expressions:
            raise ValueError(
                f"expressions: got {', '.join(cfg.expressions)}; split ood_relation asks for relations only"
            )
        return "relation"
    return "attribute" if cfg.layout == "free" else rng.choice(cfg.expressions)


def _detect_class(rng: Random, cfg: WorldConfig, split: Split) -> int:
    numbers = (1, 2, 3, 4) if split.held_out else (0, 1, 1, 2, 2, 3, 4)
    return rng.choice([n for n in numbers if n <= cfg.objects_max])


KINDS = {
    "refer": TaskKind(("shapes",), propose_refer, ask_refer, _expression_class, lambda q: q.level),
    "detect": TaskKind(("shapes",), propose_detect, ask_detect, _detect_class, lambda q: len(q.targets)),
}
