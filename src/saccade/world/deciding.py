"""Decision questions: choice with four options, and yes or no."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from saccade.world.config import COLORS, HELD_OUT, SHAPES, WorldConfig
from saccade.world.counting import tally
from saccade.world.expressions import SIDES, Expression, resolve
from saccade.world.locating import cells
from saccade.world.question import Question, Step, TaskKind, What, with_article
from saccade.world.scene import Scene, Thing, cell_name, reading_order
from saccade.world.splits import Split

LETTERS = ("A", "B", "C", "D")
_ANYTHING = What()


@dataclass(frozen=True, slots=True)
class ChoiceQuery:
    """`kind` is color, shape, cell (of the one object described) or number (of objects described)."""

    kind: str
    what: What
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class YesNoQuery:
    """`kind` is exists, relation (an expression with an anchor) or more (of `what` than of `other`)."""

    kind: str
    what: What
    other: What = _ANYTHING
    side: str = ""


def _read(kind: str, what: What, scene: Scene) -> tuple[str, tuple[Thing, ...]] | None:
    """The answer of a choice question, with the objects examined; None unless the description matches one object."""
    found = what.among(scene.objects)
    if kind == "number":
        return str(len(found)), found
    if len(found) != 1:
        return None
    return str(getattr(found[0], kind)), found


CHOICE_TEXTS = {
    "color": "What color is the {one}?",
    "shape": "What shape is the {one}?",
    "cell": "Which cell holds the {one}?",
    "number": "How many {many} are there?",
}


def ask_choice(query: ChoiceQuery, scene: Scene) -> Question | None:
    """The question with the letter of the right option; None when no option is right."""
    read = _read(query.kind, query.what, scene)
    if read is None or read[0] not in query.options:
        return None
    value, found = read
    letter = LETTERS[query.options.index(value)]
    entries = tally(found) if query.kind == "number" else cells(found)
    if query.kind in ("color", "shape"):
        entries = (f"{found[0].cell} {value}",)
    steps = (Step(entries, query.what.short), Step((f"{value} is {letter}",)))
    text = CHOICE_TEXTS[query.kind].format(one=query.what.one, many=query.what.many)
    return Question("choice", text, letter, found, steps, query, scene, query.options, query.kind)


def propose_choice(scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> list[ChoiceQuery]:
    """Attributes and cells of uniquely described objects, and counts; wrong options come from the same vocabulary."""
    everywhere = [cell_name(c, r) for r in range(scene.cells) for c in range(scene.cells)]
    drafts = []
    for t in scene.objects:
        drafts += [("color", What(shape=t.shape)), ("color", What(shape=t.shape, size=t.size))]
        drafts += [("shape", What(color=t.color)), ("shape", What(color=t.color, size=t.size))]
        drafts += [("cell", What(t.color, t.shape)), ("number", What(color=t.color)), ("number", What(shape=t.shape))]
    queries = []
    for kind, what in dict.fromkeys(drafts):
        read = _read(kind, what, scene)
        if read is None:
            continue
        vocabulary = {"color": COLORS, "shape": SHAPES, "cell": everywhere}.get(kind) or _numbers(int(read[0]), rng)
        wrong = [value for value in vocabulary if value != read[0]]
        if kind == "color":  # a held-out color would be an obvious wrong option: it never occurs with the shape
            wrong = [c for c in wrong if split.held_out or (c, what.shape) not in HELD_OUT]
        if kind == "shape":
            wrong = [s for s in wrong if split.held_out or (what.color, s) not in HELD_OUT]
        options = [read[0], *rng.sample(wrong, len(LETTERS) - 1)]
        rng.shuffle(options)
        queries.append(ChoiceQuery(kind, what, tuple(options)))
    return queries


def _numbers(value: int, rng: Random) -> list[str]:
    """Four consecutive numbers that include the value."""
    start = max(0, value - rng.randrange(len(LETTERS)))
    return [str(start + k) for k in range(len(LETTERS))]


def ask_yes_no(query: YesNoQuery, scene: Scene) -> Question | None:
    """'yes' or 'no'; None for a relation whose anchor is not one object."""
    found = query.what.among(scene.objects)
    if query.kind == "exists":
        wide = What(color=query.what.color).among(scene.objects)
        steps = [Step(tuple(f"{thing.cell} {thing.shape}" for thing in wide), query.what.color)]
        text, truth, targets = f"Is there {with_article(query.what.one)}?", bool(found), wide
    elif query.kind == "relation":
        anchors = query.other.among(scene.objects)
        if len(anchors) != 1:
            return None
        expression = Expression("relation", query.what, query.side, anchor=Expression("attribute", query.other))
        steps = [Step(cells(anchors), query.other.short), Step(cells(found), query.what.short)]
        text, truth = f"Is there {with_article(expression.text)}?", bool(resolve(expression, scene))
        targets = reading_order({*anchors, *found})
    else:
        others = query.other.among(scene.objects)
        steps = [Step(tally(found), query.what.short), Step(tally(others), query.other.short)]
        text = f"Are there more {query.what.many} than {query.other.many}?"
        truth, targets = len(found) > len(others), reading_order({*found, *others})
    answer = "yes" if truth else "no"
    steps.append(Step((f"so {answer}",)))
    return Question("yes_no", text, answer, targets, tuple(steps), query, scene, level=query.kind)


def propose_yes_no(scene: Scene, rng: Random, cfg: WorldConfig, split: Split) -> list[YesNoQuery]:
    """Existence of pairs whose color and shape both occur, relations to unique anchors, and comparisons."""
    colors, shapes = sorted({t.color for t in scene.objects}), sorted({t.shape for t in scene.objects})
    pairs = [What(c, s) for c in colors for s in shapes if split.held_out or (c, s) not in HELD_OUT]
    queries = [YesNoQuery("exists", what) for what in pairs]
    present = [what for what in pairs if what.among(scene.objects)]
    if scene.layout == "grid":
        anchors = [what for what in present if len(what.among(scene.objects)) == 1]
        related = [YesNoQuery("relation", w, a, s) for w in present for a in anchors if w != a for s in SIDES]
        queries += rng.sample(related, min(len(related), 24))
    for family in ([What(color=c) for c in colors], [What(shape=s) for s in shapes]):
        more = [YesNoQuery("more", a, b) for a in family for b in family if a != b]
        queries += rng.sample(more, min(len(more), 12))
    return queries


def _decision_class(rng: Random, cfg: WorldConfig, split: Split) -> tuple[str, str]:
    kinds = ("exists", "more") if cfg.layout == "free" else ("exists", "relation", "more")
    return rng.choice(kinds), rng.choice(("yes", "no"))


KINDS = {
    "choice": TaskKind(
        ("shapes",),
        propose_choice,
        ask_choice,
        lambda rng, cfg, split: (rng.choice(tuple(CHOICE_TEXTS)), rng.choice(LETTERS)),
        lambda q: (q.level, q.answer),
    ),
    "yes_no": TaskKind(("shapes",), propose_yes_no, ask_yes_no, _decision_class, lambda q: (q.level, q.answer)),
}
