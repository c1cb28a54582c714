"""Answers questions about the procedural world from facts only: the solver behind the oracle reasoner.

It parses the wording of the question and shares no code with the question generator. When the facts are insufficient,
it guesses and the chain says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from saccade.coldstart.facts import Fact, Height, Printed, Spot
from saccade.world.config import COLORS, SHAPES, SIZES, TILE

LETTERS = "ABCDEFGH"
SIDES = {"to the left of": (0, -1), "to the right of": (0, 1), "above": (1, -1), "below": (1, 1)}


@dataclass(frozen=True, slots=True)
class Finding:
    """The steps to an answer. `guessed`: the facts do not determine one."""

    steps: tuple[str, ...]
    answer: str
    guessed: bool = False


Solve = Callable[[str, Sequence[str], Sequence[Fact], Random], Finding]
"""(question, options, facts, random generator for guesses)"""


def fits(phrase: str, spot: Spot) -> bool:
    """Whether a noun phrase of size, color and noun, singular or plural, matches the object."""
    for word in phrase.split():
        noun = next((n for n in (*SHAPES, TILE, "object") if word in (n, n + "s", n + "es")), None)
        known = word in COLORS or word in SIZES or noun is not None
        if not known or (word in COLORS and spot.color != word) or (word in SIZES and spot.size != word):
            return False
        if noun not in (None, "object", spot.shape):
            return False
    return True


def _spots(facts: Sequence[Fact]) -> list[Spot]:
    return [fact for fact in facts if isinstance(fact, Spot)]


def _matching(phrase: str, facts: Sequence[Fact]) -> tuple[list[Spot], str]:
    found = [spot for spot in _spots(facts) if fits(phrase, spot)]
    cells = ", ".join(spot.cell for spot in found)
    return found, f"The {phrase}: {cells or 'none'}, so {len(found)}."


def _words(pattern: str, question: str) -> tuple[str, ...] | None:
    found = re.fullmatch(pattern, question.strip())
    return found.groups() if found else None


def _count(question: str, options: Sequence[str], facts: Sequence[Fact], rng: Random) -> Finding:
    named = _words(r"How many (.+) are there\?", question)
    if named is None or not _spots(facts):
        return _guess(str(rng.randint(0, 5)))
    found, step = _matching(named[0], facts)
    return Finding((step,), str(len(found)))


def _arithmetic(question: str, options: Sequence[str], facts: Sequence[Fact], rng: Random) -> Finding:
    named = _words(r"What is the sum of the digits on the (.+)\?", question)
    found = _matching(named[0], facts)[0] if named else []
    digits = [spot.digit for spot in found if spot.digit is not None]
    if not digits:
        return _guess(str(rng.randint(2, 25)))
    read = ", ".join(f"{spot.cell} shows {spot.digit}" for spot in found)
    total = sum(digits)
    return Finding((f"{read}.", f"{' + '.join(map(str, digits))} = {total}."), str(total))


def _compare(question: str, options: Sequence[str], facts: Sequence[Fact], rng: Random) -> Finding:
    named = _words(r"How many more (.+) than (.+) are there\?", question)
    if named is None or not _spots(facts):
        return _guess(str(rng.randint(0, 3)))
    (first, one), (second, two) = _matching(named[0], facts), _matching(named[1], facts)
    more = len(first) - len(second)
    return Finding((one, two, f"{len(first)} - {len(second)} = {more}."), str(more))


def _chart(question: str, options: Sequence[str], facts: Sequence[Fact], rng: Random) -> Finding:
    bars = {fact.color: fact.value for fact in facts if isinstance(fact, Height)}
    named = re.findall(r"the (\w+) bar", question)
    if "tallest" in question and len(bars) > 1:
        high, low = max(bars.values()), min(bars.values())
        return Finding(
            (f"The tallest reaches {high}, the shortest {low}.", f"{high} - {low} = {high - low}."), str(high - low)
        )
    colors = [color for color in named if color in COLORS]
    if not colors or any(color not in bars for color in colors):
        return _guess(str(rng.randint(1, 9)))
    values = [bars[color] for color in colors]
    read = ", ".join(f"{color} {value}" for color, value in zip(colors, values, strict=True))
    return Finding((f"The bars: {read}.", f"{' + '.join(map(str, values))} = {sum(values)}."), str(sum(values)))


def _geometry(question: str, options: Sequence[str], facts: Sequence[Fact], rng: Random) -> Finding:
    known = [fact for fact in facts if isinstance(fact, Printed) and fact.value is not None]
    hidden = {fact.role for fact in facts if isinstance(fact, Printed) and fact.value is None}
    if len(known) < 2:
        return _guess(str(rng.randint(3, 60)))
    a, b = (int(fact.value or 0) for fact in known[:2])
    read = f"The printed numbers are {a} and {b}."
    if "angle" in question and "triangle" not in question and "rectangle" not in question:
        return Finding((read, f"180 - {a} - {b} = {180 - a - b}."), str(180 - a - b))
    if "area" in question:
        return Finding((read, f"{a} * {b} = {a * b}."), str(a * b))
    if "perimeter" in question:
        return Finding((read, f"2 * ({a} + {b}) = {2 * (a + b)}."), str(2 * (a + b)))
    square = a * a + b * b if "hypotenuse" in hidden else abs(a * a - b * b)
    root = math.isqrt(square)
    return Finding(
        (read, f"The square of the missing side is {square}, the side {root}."), str(root), root * root != square
    )


def _choice(question: str, options: Sequence[str], facts: Sequence[Fact], rng: Random) -> Finding:
    if question.startswith("How many"):
        inner = _count(question, (), facts, rng)
    else:
        named = _words(r"(What color is|What shape is|Which cell holds) the (.+)\?", question)
        found = [spot for spot in _spots(facts) if named and fits(named[1], spot)]
        if named is None or len(found) != 1:
            return _guess(rng.choice(LETTERS[: max(1, len(options))]))
        value = getattr(found[0], named[0].split()[1])
        inner = Finding((f"The {named[1]} stands in {found[0].cell}: its {named[0].split()[1]} is {value}.",), value)
    if inner.answer not in options:
        return _guess(rng.choice(LETTERS[: max(1, len(options))]))
    letter = LETTERS[list(options).index(inner.answer)]
    return Finding((*inner.steps, f"{inner.answer} is option {letter}."), letter, inner.guessed)


def _yes_no(question: str, options: Sequence[str], facts: Sequence[Fact], rng: Random) -> Finding:
    if not _spots(facts):
        return _guess(rng.choice(("yes", "no")))
    if more := _words(r"Are there more (.+) than (.+)\?", question):
        (first, one), (second, two) = _matching(more[0], facts), _matching(more[1], facts)
        return Finding((one, two), "yes" if len(first) > len(second) else "no")
    named = _words(r"Is there an? (.+)\?", question)
    if named is None:
        return _guess(rng.choice(("yes", "no")))
    related = _words(rf"(.+) ({'|'.join(SIDES)}) the (.+)", named[0])
    if related is None:
        found, step = _matching(named[0], facts)
        return Finding((step,), "yes" if found else "no")
    head, relation, rest = related
    anchors, anchor_step = _matching(rest, facts)
    if len(anchors) != 1:
        return _guess(rng.choice(("yes", "no")))
    axis, sign = SIDES[relation]
    heads, step = _matching(head, facts)
    beyond = [s for s in heads if s is not anchors[0] and sign * (s.place[axis] - anchors[0].place[axis]) > 0]
    return Finding((anchor_step, step, f"Of these, {len(beyond)} stand {relation} it."), "yes" if beyond else "no")


def _guess(answer: str) -> Finding:
    return Finding(("What is needed is not there, so this is a guess.",), answer, True)


SOLVERS: dict[str, Solve] = {
    "count": _count,
    "arithmetic": _arithmetic,
    "compare": _compare,
    "chart": _chart,
    "geometry": _geometry,
    "choice": _choice,
    "yes_no": _yes_no,
}
"""World tasks with text answers. Boxes are in pixels, which a description does not contain."""
