"""Graders of short answers. Each takes the answer's text (the inside of the tag) and the gold."""

from __future__ import annotations

import math
import re
from typing import Any

from saccade.grading.memory import remembered
from saccade.grading.sides import side
from saccade.grading.tolerances import ROUND_OFF
from saccade.grading.verdict import Verdict
from saccade.parsing import Quantity, parse_quantity, plain, read_quantity, read_yes_no
from saccade.parsing.numbers import with_point


@remembered
def grade_number(answer: str, gold: Any, relative: float = 0.0, absolute: float = 0.0) -> Verdict:
    """Right when the numbers are equal, or differ by at most `relative` * |gold| or `absolute`.

    '50%' equals both 50 and 0.5; nothing else is scaled: '1.5 million' is 1500000. Where both have a known
    unit it must come to the same ('12 cm' is '120 mm' and not '12 mm'); where one has none it is not asked for. Whole
    numbers of any length compare digit by digit. `grade_within` has the tolerances of the benchmarks.
    """
    wanted = _gold_quantity(gold)
    if wanted is None:
        return Verdict(None, "number", f"gold {gold!r} is no number")
    reading = parse_quantity(with_point(plain(answer)) if "," in answer else answer)
    if reading.value is None:
        return Verdict(False, "number", f"no number: {reading.reason}")
    got = reading.value
    both_whole = _WHOLE.fullmatch(str(gold).strip()) and _WHOLE.fullmatch(answer.strip())
    if both_whole and not relative and not absolute:
        right = str(gold).strip().lstrip("0") == answer.strip().lstrip("0")
        return Verdict(right, "number", "" if right else f"got {got.number:g}")
    factor: float | None = 1.0
    if got.unit and wanted.unit:
        if got.unit.dimension != wanted.unit.dimension:
            return Verdict(False, "number", f"a {got.unit.dimension}, not a {wanted.unit.dimension}")
        factor = got.unit.factor / wanted.unit.factor
    elif isinstance(gold, str) and _WHOLE.fullmatch(gold) is None and (factor := _factor(answer, gold)) is None:
        return Verdict(False, "number", "another unit")
    target = wanted.number * wanted.magnitude
    bound = max(max(relative, ROUND_OFF) * abs(target), absolute)
    right = any(abs(value * factor - target) <= bound for value in _readings(got, wanted))
    return Verdict(right, "number", "" if right else f"got {got.number * got.magnitude:g}")


def _factor(answer: str, gold: str) -> float | None:
    """How many of the gold's units the answer's is, where both have one; None when they measure different things."""
    mine, theirs = (amount.measure if (amount := side(text).amount) else None for text in (answer, gold))
    if mine is None or theirs is None or not (mine.powers and theirs.powers) or mine.unnamed or theirs.unnamed:
        return 1.0
    return mine.factor / theirs.factor if mine.fits(theirs) else None


_WHOLE = re.compile("[0-9]+")


def _gold_quantity(gold: Any) -> Quantity | None:
    if isinstance(gold, str):
        return read_quantity(gold)
    try:
        number = float(gold)
    except (TypeError, ValueError, OverflowError):
        return None
    return Quantity(number) if math.isfinite(number) else None


def _readings(got: Quantity, wanted: Quantity) -> list[float]:
    """What an answer's number may mean, given how the gold is written."""
    number = got.number * got.magnitude
    if got.percent and not wanted.percent:
        return [number, number / 100]
    if wanted.percent and not got.percent:
        return [number, number * 100]
    return [number]


@remembered
def grade_yes_no(answer: str, gold: Any) -> Verdict:
    """Right when the answer says what the gold says; the gold is a bool or a word such as 'yes'."""
    wanted = gold if isinstance(gold, bool) else read_yes_no(str(gold))
    if wanted is None:
        return Verdict(None, "yes_no", f"gold {gold!r} is neither yes nor no")
    said = read_yes_no(answer)
    return Verdict(said is wanted, "yes_no", "" if said is wanted else f"said {_SAID[said]}")


_SAID = {True: "yes", False: "no", None: "neither"}


@remembered
def grade_text(answer: str, gold: Any) -> Verdict:
    """Right when both texts are equal but for case, white space, full-width forms and outer punctuation."""
    wanted = fold(str(gold))
    if not wanted:
        return Verdict(None, "text", "gold is empty")
    right = fold(answer) == wanted
    return Verdict(right, "text", "" if right else "other text")


@remembered
def grade_similarity(answer: str, gold: Any, at_least: float = 1.0) -> Verdict:
    """Right when the texts, folded, are alike to `at_least`; `value` is 1 - edit distance / length of the longer."""
    from rapidfuzz.distance import Levenshtein

    if not 0.0 < at_least <= 1.0:
        raise ValueError(f"got at_least {at_least}, expected a share above 0 and up to 1")
    wanted = fold(str(gold))
    if not wanted:
        return Verdict(None, "text: edit distance", "gold is empty")
    value = Levenshtein.normalized_similarity(fold(answer), wanted)
    right = value >= at_least
    return Verdict(right, "text: edit distance", "" if right else f"alike to {value:.2f}", value)


@remembered
def grade_value(answer: str, gold: Any, relative: float = 0.0, absolute: float = 0.0) -> Verdict:
    """By the kind of gold: a number as a number, anything else as text. For charts and figures, whose answers mix."""
    if isinstance(gold, bool) or (isinstance(gold, str) and not _is_number(gold)):
        return grade_text(answer, gold)
    return grade_number(answer, gold, relative, absolute)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def fold(text: str) -> str:
    """Text as compared: NFKC, one kind of quotes and hyphens, case folded, white space collapsed, no invisible
    characters, no outer quotes and no closing punctuation; an escaped underscore is one."""
    return " ".join(plain(text.replace("\\_", "_")).replace("`", "'").casefold().split()).strip(_OUTER).rstrip(_CLOSING)


_OUTER = "\"'` "
_CLOSING = ".!,;。、\"'` "
