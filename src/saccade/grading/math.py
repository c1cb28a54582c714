"""Is a mathematical answer equal to the gold? Cheap rules first, a symbolic check in another process last."""

from __future__ import annotations

import math
import re
from typing import Any

from saccade.grading import math_pool
from saccade.grading.answers import grade_number, grade_text
from saccade.grading.latex import Value, evaluate, normal, too_large
from saccade.grading.sets import compare
from saccade.grading.verdict import Verdict
from saccade.parsing import Unit, plain, read_all_boxed, read_number, read_unit

MAX_ANSWER = 2_000
"""Characters of an answer that are looked at; a longer one is no answer."""
_DECIMAL = re.compile(r"-?\d*\.(\d+)")
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")
_CLOCK = re.compile(r"\d{1,2}:[0-5]\d")
_UNIT_NAME = (
    r"[mckd]?m|[mk]?g|min|s|h|%|°|\\%|rad|deg(?:rees?)?|units?|squareunits?|dollars?|hours?|minutes?|seconds?|"
    r"(?:centi|milli|kilo)?met(?:er|re)s?|inch(?:es)?|feet|ft|miles?|[\u4e00-\u9fff]{1,6}"
)
_WITH_UNIT = re.compile(rf"-?[\d.,]+(?:{_UNIT_NAME})(?:\^?\{{?[23]\}}?)?(?:/(?:{_UNIT_NAME})(?:\^?\{{?[23]\}}?)?)?")
_PLAIN_NUMBER = re.compile(r"-?[\d.]+")
_PERCENT = re.compile(r"-?[\d.]+\\?%")
_UNIT_START = re.compile(r"(?<=[\d})])(?=[A-Za-z°\u4e00-\u9fff])|(?<=\\pi)(?=[a-z])")
_LIST = re.compile(r",\s|\band\b|\bor\b|[\d}],(?!\d{3}(?!\d))")


def grade_math(answer: str, gold: Any) -> Verdict:
    r"""Right when the answer's expression equals the gold's.

    In order: the same spelling (`exact`), plain arithmetic on both sides (`numeric`: fractions, roots, powers, pi,
    ratios; a decimal gold is met by an irrational number that rounds to it), numbers with a unit (`unit`: a missing one
    is forgiven, another one is not, unless it comes to the same), sets, lists, tuples and intervals of those (`parts`),
    and math-verify in a process that can be killed (`symbolic`); a gold that is a word is compared as text. Of several
    boxes the last counts, all when the gold is a list. What cannot be decided in its CPU time is wrong; a gold that
    cannot be read, or a machine too busy to grade, gives no verdict.
    """
    gold = str(gold)
    wanted = normal(gold)
    if not wanted:
        return Verdict(None, "math: gold", f"gold {gold!r} is empty")
    if len(answer) > MAX_ANSWER:
        return Verdict(False, "math: length", f"{len(answer)} characters")
    if answer.count("boxed") > 1 and _LIST.search(gold):
        answer = ", ".join(read_all_boxed(answer))
    got = normal(answer)
    if not got:
        return Verdict(False, "math: empty", "no answer")
    return _cheaply(got, wanted, gold) or _symbolically(answer, gold, got, wanted)


def _cheaply(got: str, wanted: str, gold: str) -> Verdict | None:
    """What needs no algebra; None when that is not enough."""
    if got == wanted:
        return Verdict(True, "math: exact")
    if _DATE.fullmatch(got) and _DATE.fullmatch(wanted) is None and "/" not in got:
        return Verdict(False, "math: date", "a date is no sum")
    if _CLOCK.fullmatch(wanted) and ":" not in got:
        return Verdict(False, "math: time", "the gold is a time of day or a ratio")
    mine, theirs = evaluate(got), evaluate(wanted)
    if mine is not None and theirs is not None:
        right = _equal(mine, theirs, wanted)
        return Verdict(right, "math: numeric", "" if right else f"got {mine.number:g}")
    if theirs is not None and got.isalpha() and got not in ("e", "i"):
        number = read_number(got)  # in words, as 'seven' and its like in Chinese
        right = number is not None and _equal(Value(number), theirs, wanted)
        return Verdict(right, "math: words", "" if right else "a word or a letter")
    if theirs is not None and too_large(got):
        return Verdict(False, "math: too large", "no number of this size is asked for")
    if (verdict := _with_units(got, wanted, gold)) is not None:
        return verdict
    if mine is not None and _PERCENT.fullmatch(wanted):
        verdict = grade_number(got if _PLAIN_NUMBER.fullmatch(got) else repr(mine.number), wanted)
        return Verdict(verdict.right, "math: percent", verdict.detail)
    if theirs is not None and _WITH_UNIT.fullmatch(got) and read_number(wanted) is not None:
        verdict = grade_number(got, wanted)
        return Verdict(verdict.right, "math: unit", verdict.detail)
    right = compare(got, wanted, _same_part)
    return None if right is None else Verdict(right, "math: parts", "" if right else "other parts")


def _same_part(mine: str, gold: str) -> bool | None:
    if mine == gold:
        return True
    a, b = evaluate(mine), evaluate(gold)
    return None if a is None or b is None else _equal(a, b, gold)


def _with_units(got: str, wanted: str, gold: str) -> Verdict | None:
    """Numbers, roots and pi with a known unit on one side or both; None for anything else."""
    mine, my_unit = _unit_apart(got)
    theirs, their_unit = _unit_apart(wanted)
    if my_unit is None and their_unit is None:
        return None
    if their_unit is not None and re.search(r"\d[a-zA-Z]$", plain(gold)):
        return None  # '3m' may be three times m; '3 m' is not
    a, b = evaluate(mine), evaluate(theirs)
    if a is None or b is None:
        return None
    if my_unit is not None and their_unit is not None and "count" not in (my_unit.dimension, their_unit.dimension):
        if my_unit.dimension != their_unit.dimension:
            return Verdict(False, "math: unit", f"a {my_unit.dimension}, not a {their_unit.dimension}")
        a = Value(a.number * my_unit.factor / their_unit.factor, a.irrational)
    right = _equal(a, b, theirs)
    return Verdict(right, "math: unit", "" if right else f"got {a.number:g}")


def _unit_apart(expression: str) -> tuple[str, Unit | None]:
    """The expression without its unit, and the unit."""
    for tries, start in enumerate(_UNIT_START.finditer(expression)):
        found = read_unit(expression, start.start())
        if found is not None and found[1] == len(expression):
            return expression[: start.start()], found[0]
        if tries == 8:
            break
    return expression, None


def _symbolically(answer: str, gold: str, got: str, wanted: str) -> Verdict:
    """By math-verify; an equation keeps its left side when the other has one too."""
    equations = normal(answer, named=True), normal(gold, named=True)
    if all(text.count("=") == 1 and re.search("[a-z]", text) for text in equations):
        got, wanted = equations
    verdict = math_pool.shared().verify(wanted, got)
    if verdict.right is None and wanted.isalpha():  # a word, such as 'Tuesday'
        return grade_text(got, wanted)
    return verdict


def _equal(mine: Value, theirs: Value, gold: str) -> bool:
    """Equal but for round-off; or a long decimal of it; or an irrational number that rounds to the gold's decimals."""
    if math.isclose(mine.number, theirs.number, rel_tol=1e-9, abs_tol=1e-12):
        return True
    decimals = _DECIMAL.fullmatch(gold)
    if decimals is None:
        whole = mine.number.is_integer() or theirs.number.is_integer()
        return not whole and abs(mine.number - theirs.number) < 1e-6  # 0.333333 for 1/3
    precision = len(decimals[1])
    near = abs(mine.number - theirs.number) <= 0.5 * 10.0**-precision * (1 + 1e-9)
    return near and (precision >= 6 or (mine.irrational and precision >= 2))
