"""Typed rules for two values without prose, in order; what none of them knows is left to math-verify."""

from __future__ import annotations

import math
import re
from functools import partial

from saccade.grading import math_pool, numbers
from saccade.grading.arithmetic import evaluate_complex, too_large
from saccade.grading.latex import normal
from saccade.grading.numbers import DEFAULT, MathRules
from saccade.grading.sets import compare
from saccade.grading.sides import Amount, Side, read_clock, read_date, read_matrix, read_ratio, side
from saccade.grading.verdict import Verdict
from saccade.parsing.units import read_measure

LIST = re.compile(r",\s|\band\b|\bor\b|[\d}],(?!\d{3}(?!\d))|;")
"""What separates the parts of a list."""
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")


def compare_values(value: str, gold: str, rules: MathRules = DEFAULT) -> Verdict:
    """One value against the gold, by the first rule that knows both."""
    mine, theirs = side(value), side(gold)
    for rule in _RULES:
        if (verdict := rule(mine, theirs, rules)) is not None:
            return verdict
    return _symbolically(mine, theirs)


def same_value(value: str, other: str, algebra: bool = True) -> bool:
    """Whether two texts without prose have the same value; without `algebra` only by the rules that need no process."""
    mine, theirs = side(value), side(other)
    for rule in _RULES:
        if (verdict := rule(mine, theirs, DEFAULT)) is not None:
            return verdict.right is True
    return algebra and bool(_ALGEBRAIC.search(mine.form)) and _symbolically(mine, theirs).right is True


_ALGEBRAIC = re.compile(r"[a-z\\][^a-z\\\n]*[-+*/^({]|[-+*/^({][^-+*/^({\n]*[a-z\\]")


def _exact(mine: Side, theirs: Side, rules: MathRules) -> Verdict | None:
    if mine.form == theirs.form and mine.form:
        if _other_name(mine.named, theirs.named):
            return Verdict(False, "math: name", "another name")
        if (
            "\\begin" not in mine.form
            and "°" not in mine.plain
            and (mine.amount is None or mine.amount.measure is None)
        ):
            return Verdict(True, "math: exact")
        if mine.plain == theirs.plain:
            return Verdict(True, "math: exact")
    return None


def _other_name(mine: str, theirs: str) -> bool:
    """'x = 5' is not 'y = 5'."""
    a, b = _LETTER_NAME.match(mine), _LETTER_NAME.match(theirs)
    return a is not None and b is not None and a[1] != b[1]


_LETTER_NAME = re.compile(r"([a-z])=(?!=)")


def _matrix(mine: Side, theirs: Side, rules: MathRules) -> Verdict | None:
    if "[[" not in theirs.raw.replace(" ", "") and _ARRAYS.search(theirs.raw + mine.raw) is None:
        return None
    a, b = read_matrix(mine.raw), read_matrix(theirs.raw)
    if a is None and b is None:
        return None
    rows = [_rows_of(one, cells) for one, cells in ((mine, a), (theirs, b))]
    if rows[0] is None or rows[1] is None:
        return Verdict(False, "math: matrix", "no matrix on one side")
    pairs = [(p, q) for p, q in zip(*rows, strict=False) if len(p) == len(q)]
    same = [[_same_part(x, y, rules) for x, y in zip(p, q, strict=True)] for p, q in pairs]
    shaped = [len(row) for row in rows[0]] == [len(row) for row in rows[1]]
    right = shaped and all(all(row) for row in same)
    return Verdict(right, "math: matrix", "" if right else "other entries")


_ARRAYS = re.compile(r"\\begin|\\(?:hat|vec|mathbf|boldsymbol|bm)\s?\{\\?[jk](?:math)?\}")


def _rows_of(one: Side, cells: list[list[str]] | None) -> list[list[str]] | None:
    """The rows of a matrix, a column as one row; a tuple is a row."""
    if cells is not None:
        return [[row[0] for row in cells]] if all(len(row) == 1 for row in cells) else cells
    inside = re.fullmatch(r"[(\[]([^()\[\]]+)[)\]]", one.form)
    return [inside[1].split(",")] if inside else None


def calendar(mine: Side, theirs: Side, rules: MathRules) -> Verdict | None:
    """Dates, times of day and ratios."""
    if (gold_date := read_date(theirs.plain)) is not None:
        return Verdict(read_date(mine.plain) == gold_date, "math: date")
    if _DATE.fullmatch(mine.form) and _DATE.fullmatch(theirs.form) is None and "/" not in mine.form:
        return Verdict(False, "math: date", "a date is no sum")
    clock, gold_clock = read_clock(mine.plain), read_clock(theirs.plain)
    if gold_clock is not None and clock is not None:
        return Verdict(clock.seconds == gold_clock.seconds, "math: time")
    if (clock and clock.surely) or (gold_clock and (gold_clock.surely or ":" not in mine.form)):
        return (
            None if ":" in mine.form and not gold_clock else Verdict(False, "math: time", "a time of day on one side")
        )
    ratio, gold_ratio = read_ratio(mine.plain), read_ratio(theirs.plain)
    if gold_ratio is not None and (ratio is not None or len(gold_ratio) > 2):
        return Verdict(ratio == gold_ratio, "math: ratio")
    whole = theirs.amount is not None and theirs.amount.value.number.is_integer()
    if ratio is not None and (":" not in mine.plain or len(ratio) > 2 or whole):
        return Verdict(False, "math: ratio", "a ratio or a range")
    return None


_CASES = re.compile(r"\\begin\s?\{d?cases\}(.{0,2000}?)\\end\s?\{d?cases\}[\s$.\\)\]]*$", re.DOTALL)
_CASE = re.compile(r"\\\\(?:\s?\[[^\]]{0,9}\])?")
_WHEN = re.compile(r"\\(?:text|mathrm|mbox|quad|qquad|,|;|\s)\s?|\b(?:if|for|when|where)\b|[{}$~]")


def piecewise(answer: str, gold: str, rules: MathRules) -> Verdict | None:
    """A function by cases: the same values under the same conditions, in any order; None for a system of equations."""
    wanted, said = _cases(gold), _cases(answer)
    if wanted is None:
        return None
    if said is None or len(said) != len(wanted):
        return Verdict(False, "math: cases", "other cases")
    right = all(any(_same_case(one, case, rules) for one in said) for case in wanted)
    return Verdict(right, "math: cases", "" if right else "other cases")


def _cases(text: str) -> list[tuple[str, str]] | None:
    """(value, condition) of each case."""
    match = _CASES.search(text)
    rows = [row.split("&") for row in _CASE.split(match[1]) if row.strip()] if match else []
    if not rows or any(len(row) != 2 for row in rows):
        return None
    return [
        (value.strip(" \n,"), " ".join(_WHEN.sub(" ", condition).split()).strip(" ,.")) for value, condition in rows
    ]


def _same_case(mine: tuple[str, str], gold: tuple[str, str], rules: MathRules) -> bool:
    if not compare_values(mine[0], gold[0], rules).right:
        return False
    return mine[1] == gold[1] or compare_values(mine[1], gold[1], rules).right is True


_BASE = re.compile(r"\(?(\d\w*|[\dA-F]+(?=\)?_\{?1[1-6]))\)?_\{?(\d{1,2})\}?")


def _bases(mine: Side, theirs: Side, rules: MathRules) -> Verdict | None:
    """Numerals with their base: 11_2 is not 11_3; a base that only one of them names is taken for the other's."""
    a, b = _BASE.fullmatch(mine.form), _BASE.fullmatch(theirs.form)
    if a is None and b is None:
        return None
    ours, golds = (match.groups() if match else (one.form, None) for match, one in ((a, mine), (b, theirs)))
    digits = [one[0].lower().removeprefix("0x") for one in (ours, golds)]
    return Verdict(digits[0] == digits[1] and (None in (ours[1], golds[1]) or ours[1] == golds[1]), "math: base")


def amounts(mine: Side, theirs: Side, rules: MathRules) -> Verdict | None:
    """Numbers with unit and percent."""
    a, b = mine.amount, theirs.amount
    if b is None or a is None:
        return None
    if b.measure is not None and _VARIABLE.search(theirs.plain):
        return None  # '3m' may be three times m; '3 m' is not
    if b.measure is not None and b.measure.noun and all(_PRODUCT.search(one.plain) for one in (mine, theirs)):
        return None  # '2ab'
    value, scale = a.value, 1.0
    if rules.units == "required" and b.measure is not None and a.measure is None:
        return Verdict(False, "math: unit", "no unit")
    if a.measure is not None and b.measure is not None and rules.units != "ignored":
        if not a.measure.fits(b.measure):
            return Verdict(False, "math: unit", "another unit")
        if not (a.measure.unnamed or b.measure.unnamed):
            scale = a.measure.factor / b.measure.factor
    for turned, angle, radians in ((math.pi / 180, a, b), (180 / math.pi, b, a)):
        if angle.measure == DEGREES and radians.measure is None and "\\pi" in radians.text:
            scale = turned
    readings = [1.0]
    if a.percent != b.percent:
        if (b if a.percent else a).measure is not None:
            return Verdict(False, "math: unit", "a percentage for a unit")
        readings.append(0.01 if a.percent else 100.0)
    right = any(_scaled(a, b, scale * reading, rules) for reading in readings)
    route = "math: unit" if a.measure or b.measure else "math: percent" if a.percent or b.percent else "math: numeric"
    return Verdict(right, route, "" if right else f"got {value.number:g}")


DEGREES = read_measure("°")
_VARIABLE = re.compile(r"\d[a-zA-Z]$")
_PRODUCT = re.compile(r"\d[a-z]{2,3}$")


def _scaled(a: Amount, b: Amount, scale: float, rules: MathRules) -> bool:
    if scale == 1.0:
        return numbers.equal(a.value, b.value, a.text, b.text, rules)
    return numbers.close(a.value.number * scale, b.value.number)


def _too_large(mine: Side, theirs: Side, rules: MathRules) -> Verdict | None:
    if theirs.amount is not None and too_large(mine.form):
        return Verdict(False, "math: too large", "no number of this size is asked for")
    if theirs.amount is not None and mine.form.isalpha() and mine.form not in ("e", "i"):
        return Verdict(False, "math: words", "a word or a letter")
    return None


def _complex(mine: Side, theirs: Side, rules: MathRules) -> Verdict | None:
    if "i" not in mine.form and "i" not in theirs.form:
        return None
    values = []
    for one in (mine, theirs):
        value = evaluate_complex(one.form)
        values.append(complex(one.amount.value.number) if value is None and one.amount is not None else value)
    a, b = values
    if a is None or b is None:
        return None
    return Verdict(abs(a - b) <= 1e-9 * abs(b), "math: complex")


def _parts(mine: Side, theirs: Side, rules: MathRules) -> Verdict | None:
    got, wanted = (one.named if _NAMED_PARTS.search(one.named) else one.form for one in (mine, theirs))
    right = compare(got, wanted, partial(_same_cheaply, rules=rules), rules.order)
    if right is None and ("," in got + wanted or "\\pm" in got + wanted):
        right = compare(got, wanted, partial(_same_part, rules=rules), rules.order)
    if (
        right is not True
        and "," in mine.raw
        and LIST.search(theirs.raw)
        and got != (listed := normal(mine.raw, True, True))
    ):
        right = compare(listed, wanted, partial(_same_cheaply, rules=rules), rules.order)
    return None if right is None else Verdict(right, "math: parts", "" if right else "other parts")


_NAMED_PARTS = re.compile(r"=[^=\n]*?(?:[,;]|and|or)|\(\w(?:,\w)+\)=")


def _same_cheaply(mine: str, gold: str, rules: MathRules) -> bool | None:
    if mine == gold:
        return True
    ours, golds = side(mine), side(gold)
    verdict = calendar(ours, golds, rules) or amounts(ours, golds, rules) or _complex(ours, golds, rules)
    return None if verdict is None else verdict.right


def _same_part(mine: str, gold: str, rules: MathRules) -> bool | None:
    same = _same_cheaply(mine, gold, rules)
    return math_pool.shared().verify(gold, mine).right if same is None else same


def _figure(mine: Side, theirs: Side, rules: MathRules) -> Verdict | None:
    """Angles and segments by their letters, in either direction; what is said of two of them."""
    said, wanted = (_RELATED.fullmatch(one.form.replace("||", "\\parallel")) for one in (mine, theirs))
    if wanted is not None:
        pairs = () if said is None or said[2] != wanted[2] else ((said[1], said[3]), (said[3], said[1]))
        return Verdict((wanted[1], wanted[3]) in pairs, "math: name")
    a, b = _NAMED_FIGURE.fullmatch(mine.form), _NAMED_FIGURE.fullmatch(theirs.form)
    if a is None or b is None:
        return None
    return Verdict(a[1] in (b[1], b[1][::-1]), "math: name")


_RELATED = re.compile(r"(?:\\triangle)?([A-Z]{1,4})(\\(?:parallel|perp|cong|sim))(?:\\triangle)?([A-Z]{1,4})")
_NAMED_FIGURE = re.compile(r"(?:\\angle)?\{?([A-Z]{2,3})\}?")
_RULES = (_matrix, calendar, _exact, _figure, _bases, amounts, _complex, _too_large, _parts)
_EQUATION = re.compile(r"(?<![<>!\\])=")
_UNFINISHED = re.compile(r"[-+*/^=]$")
_UNREADABLE = re.compile(r"\.\.\.|…|\\[lc]?dots|\bor\b|\?|\bnot\b")


def _symbolically(mine: Side, theirs: Side) -> Verdict:
    """By math-verify; an equation keeps its left side when the other has one too."""
    got, wanted = mine.form, theirs.form
    if all(text.count("=") == 1 and re.search("[a-z]", text) for text in (mine.named, theirs.named)):
        got, wanted = mine.named, theirs.named
    if (_EQUATION.search(got) is None) != (_EQUATION.search(wanted) is None):
        return Verdict(False, "math: equation", "an equation on one side")
    if _UNFINISHED.search(got) and not _UNFINISHED.search(wanted):
        return Verdict(False, "math: unclear", "an expression that does not end")
    if (_UNREADABLE.search(got) is None) != (_UNREADABLE.search(wanted) is None):
        return Verdict(False, "math: unclear", "hedged")
    got, wanted = (text.replace("\\degree", "\\cdot\\frac{\\pi}{180}") for text in (got, wanted))
    return math_pool.shared().verify(wanted, got)
