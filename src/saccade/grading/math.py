"""Is a mathematical answer equal to the gold? Typed rules first, a symbolic check in another process last."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from saccade.grading import math_pool, numbers
from saccade.grading.answers import fold
from saccade.grading.arithmetic import evaluate_complex, too_large
from saccade.grading.latex import normal
from saccade.grading.sets import compare
from saccade.grading.sides import Side, read_clock, read_compound, read_date, read_matrix, read_ratio, side
from saccade.grading.verdict import Verdict
from saccade.parsing import plain, read_all_boxed
from saccade.parsing.claims import Claim, read_claim

MAX_ANSWER = 2_000
"""Characters of an answer that are looked at; a longer one is no answer."""
_LIST = re.compile(r",\s|\band\b|\bor\b|[\d}],(?!\d{3}(?!\d))|;")
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")
_WORDS = re.compile(r"(?=.{0,99}[^\W\d_]{2})[^\W\d_]+(?:[\s'.,-]{1,3}[^\W\d_]+)*\.?")


def grade_math(answer: str, gold: Any) -> Verdict:
    r"""Right when the value that the answer claims equals the gold.

    The claim is read by `parsing.claims`; one that wavers is wrong. Values are compared by what they are: matrices,
    dates and times, ratios, numbers with unit and percent, sets, lists, tuples and intervals, words; what is none of
    these goes to math-verify in a process that can be killed. Of several boxes the last counts, all when the gold is a
    list. What cannot be decided in its CPU time is wrong; a gold that cannot be read, or a machine too busy to grade,
    gives no verdict.
    """
    gold = _gold(str(gold))
    if not normal(gold):
        return Verdict(None, "math: gold", f"gold {gold!r} is empty")
    if len(answer) > MAX_ANSWER:
        return Verdict(False, "math: length", f"{len(answer)} characters")
    if answer.strip() == gold:
        return Verdict(True, "math: exact")
    answer = _boxes(answer, gold)
    if not normal(answer):
        return Verdict(False, "math: empty", "no answer")
    if (verdict := _calendar(side(answer), side(gold))) is not None and verdict.right:
        return verdict
    gold = _NAMED_SETS.get(fold(gold), gold)
    if read_compound(plain(answer)) is not None and (verdict := _amounts(side(answer), side(gold))) is not None:
        return verdict
    if _is_words(gold):
        return _grade_words(answer, gold)
    if (said := _NAMED_SETS.get(_THERE_IS.sub("", fold(answer)))) is not None:
        return _grade_value(said, gold)
    claim = read_claim(answer)
    if claim.problem is not None:
        return Verdict(False, "math: unclear", claim.problem)
    verdict = Verdict(False, "math: unclear", "no value")
    for value in claim.values:
        verdict = _grade_chain(value, gold, claim)
        if verdict.right is not True:
            break
    return verdict


@lru_cache(maxsize=4096)
def _gold(text: str) -> str:
    """The gold without frame: several boxes are a list, one box is its inside."""
    text = text.strip()
    boxes = read_all_boxed(text) if "boxed" in text or "fbox" in text else []
    if len(boxes) > 1:
        return ", ".join(boxes)
    return boxes[0] if boxes and boxes[0] else text


def is_list(gold: str) -> bool:
    """Whether a gold has several parts: then several boxes of a reply are one answer."""
    return _LIST.search(gold) is not None or gold.count("boxed") > 1


def _boxes(answer: str, gold: str) -> str:
    """The inside of the last box, or of all of them for a list; boxes that are joined by 'or' stay together."""
    if "box" not in answer or not (boxes := read_all_boxed(answer)):
        return answer
    if len(boxes) > 1 and (_LIST.search(gold) or _OR.search(answer)):
        return ", ".join(boxes)
    return boxes[-1]


_OR = re.compile(r"\}[\s$)\\]*(?:\bor\b|/|\|)[\s$(\\]*f?boxed")


def _grade_chain(value: str, gold: str, claim: Claim) -> Verdict:
    """'2 * 7 = 14': every part that has a value must have the gold's."""
    parts = [part for part in _EQUALS.split(value) if part.strip(" $")]
    if len(parts) > 1 and "=" not in gold and _wide(value):
        known = [part for part in parts if side(part).amount is not None]
        if "\\approx" in value or "≈" in value:
            return _approximate(known or parts, gold)
        if len(known) > 1:
            verdicts = [_grade_value(part, gold) for part in known]
            return next((one for one in verdicts if not one.right), verdicts[-1])
        if len(parts) > 2:
            return _grade_value(parts[-1], gold)
    return _grade_value(value, gold)


_EQUALS = re.compile(r"(?<![<>!=:\\])=(?!=)|\\approx(?![a-z])|≈|\\equiv(?![a-z])")


def _wide(value: str) -> bool:
    """No commas outside of brackets: 'x = 1, y = 2' is a list and no chain."""
    return re.search(r",\s|;|\b(?:and|or)\b|\n", value) is None


def _approximate(parts: list[str], gold: str) -> Verdict:
    verdicts = [_grade_value(part, gold) for part in parts]
    amounts = [amount.value.number for part in parts if (amount := side(part).amount) is not None]
    near = all(abs(a - b) <= 0.02 * max(abs(a), abs(b)) for a in amounts for b in amounts)
    best = next((one for one in verdicts if one.right), verdicts[-1])
    return best if near else Verdict(False, best.route, "parts that differ")


def _grade_value(value: str, gold: str) -> Verdict:
    """One value against the gold, by the first rule that knows both."""
    mine, theirs = side(value), side(gold)
    for rule in _RULES:
        if (verdict := rule(mine, theirs)) is not None:
            return verdict
    return _symbolically(mine, theirs)


def same_value(value: str, other: str, algebra: bool = True) -> bool:
    """Whether two texts without prose have the same value; without `algebra` only by the rules that need no process."""
    mine, theirs = side(value), side(other)
    for rule in _RULES:
        if (verdict := rule(mine, theirs)) is not None:
            return verdict.right is True
    return algebra and bool(_ALGEBRAIC.search(mine.form)) and _symbolically(mine, theirs).right is True


_ALGEBRAIC = re.compile(r"[a-z\\].*[-+*/^({]|[-+*/^({].*[a-z\\]")


def _exact(mine: Side, theirs: Side) -> Verdict | None:
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


def _matrix(mine: Side, theirs: Side) -> Verdict | None:
    if "[[" not in theirs.raw.replace(" ", "") and "\\begin" not in theirs.raw and "\\begin" not in mine.raw:
        return None
    a, b = read_matrix(mine.raw), read_matrix(theirs.raw)
    if a is None and b is None:
        return None
    rows = [_rows_of(one, cells) for one, cells in ((mine, a), (theirs, b))]
    if rows[0] is None or rows[1] is None:
        return Verdict(False, "math: matrix", "no matrix on one side")
    same = [
        [_same_part(x, y) for x, y in zip(p, q, strict=True)] for p, q in zip(*rows, strict=False) if len(p) == len(q)
    ]
    shaped = [len(row) for row in rows[0]] == [len(row) for row in rows[1]]
    right = shaped and all(all(row) for row in same)
    return Verdict(right, "math: matrix", "" if right else "other entries")


def _rows_of(one: Side, cells: list[list[str]] | None) -> list[list[str]] | None:
    """The rows of a matrix, a column as one row; a tuple is a row."""
    if cells is not None:
        return [[row[0] for row in cells]] if all(len(row) == 1 for row in cells) else cells
    inside = re.fullmatch(r"[(\[]([^()\[\]]+)[)\]]", one.form)
    return [inside[1].split(",")] if inside else None


def _calendar(mine: Side, theirs: Side) -> Verdict | None:
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
    if ratio is not None and (":" not in mine.plain or len(ratio) > 2):
        return Verdict(False, "math: ratio", "a ratio or a range")
    return None


_BASE = re.compile(r"\(?(\d\w*)\)?_\{?(\d{1,2})\}?")


def _bases(mine: Side, theirs: Side) -> Verdict | None:
    """Numerals with their base: 11_2 is not 11_3; a base that only one of them names is taken for the other's."""
    a, b = _BASE.fullmatch(mine.form), _BASE.fullmatch(theirs.form)
    if a is None and b is None:
        return None
    ours, golds = (match.groups() if match else (one.form, None) for match, one in ((a, mine), (b, theirs)))
    return Verdict(ours[0] == golds[0] and (None in (ours[1], golds[1]) or ours[1] == golds[1]), "math: base")


def _amounts(mine: Side, theirs: Side) -> Verdict | None:
    """Numbers with unit and percent."""
    a, b = mine.amount, theirs.amount
    if b is None or a is None:
        return None
    if theirs.amount is not None and theirs.amount.measure is not None and _VARIABLE.search(theirs.plain):
        return None  # '3m' may be three times m; '3 m' is not
    value, scale = a.value, 1.0
    if a.measure is not None and b.measure is not None:
        if not a.measure.fits(b.measure):
            return Verdict(False, "math: unit", "another unit")
        scale = a.measure.factor / b.measure.factor
    readings = [1.0]
    if a.percent != b.percent:
        readings.append(0.01 if a.percent else 100.0)
    right = any(_scaled(a, b, scale * reading) for reading in readings)
    route = "math: unit" if a.measure or b.measure else "math: percent" if a.percent or b.percent else "math: numeric"
    return Verdict(right, route, "" if right else f"got {value.number:g}")


_VARIABLE = re.compile(r"\d[a-zA-Z]$")


def _scaled(a: Any, b: Any, scale: float) -> bool:
    if scale == 1.0:
        return numbers.equal(a.value, b.value, a.text, b.text)
    return numbers.close(a.value.number * scale, b.value.number)


def _too_large(mine: Side, theirs: Side) -> Verdict | None:
    if theirs.amount is not None and too_large(mine.form):
        return Verdict(False, "math: too large", "no number of this size is asked for")
    if theirs.amount is not None and mine.form.isalpha() and mine.form not in ("e", "i"):
        return Verdict(False, "math: words", "a word or a letter")
    return None


def _complex(mine: Side, theirs: Side) -> Verdict | None:
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


def _parts(mine: Side, theirs: Side) -> Verdict | None:
    got, wanted = (_excluded(one.named if _NAMED_PARTS.search(one.named) else one.form) for one in (mine, theirs))
    right = compare(got, wanted, _same_cheaply)
    if right is None and ("," in got or "," in wanted):
        right = compare(got, wanted, _same_part)
    if (
        right is not True
        and "," in mine.raw
        and _LIST.search(theirs.raw)
        and got != (listed := normal(mine.raw, True, True))
    ):
        right = compare(listed, wanted, _same_cheaply)
    return None if right is None else Verdict(right, "math: parts", "" if right else "other parts")


_NAMED_PARTS = re.compile(r"=.*[,;]|=.*(?:and|or)|\(\w(?:,\w)+\)=")
_HOLE = re.compile(r"[a-z]\\neq?([^a-zA-Z,]+)|(?:\\mathbb\{R\}|R)\\(?:setminus|backslash)\\?\{([^{},]+)\\?\}")


def _excluded(text: str) -> str:
    """'x != a' and 'R without a' as the two intervals beside a."""
    hole = _HOLE.fullmatch(text)
    if hole is None:
        return text
    point = hole[1] or hole[2].rstrip("\\")
    return f"(-\\infty,{point})\\cup({point},\\infty)"


def _same_cheaply(mine: str, gold: str) -> bool | None:
    if mine == gold:
        return True
    verdict = _calendar(side(mine), side(gold)) or _amounts(side(mine), side(gold)) or _complex(side(mine), side(gold))
    return None if verdict is None else verdict.right


def _same_part(mine: str, gold: str) -> bool | None:
    same = _same_cheaply(mine, gold)
    return math_pool.shared().verify(gold, mine).right if same is None else same


_RULES = (_matrix, _calendar, _exact, _bases, _amounts, _complex, _too_large, _parts)
_UNREADABLE = re.compile(r"\.\.\.|…|\\[lc]?dots|\bor\b|\?|\bnot\b")


def _symbolically(mine: Side, theirs: Side) -> Verdict:
    """By math-verify; an equation keeps its left side when the other has one too."""
    got, wanted = mine.form, theirs.form
    if all(text.count("=") == 1 and re.search("[a-z]", text) for text in (mine.named, theirs.named)):
        got, wanted = mine.named, theirs.named
    if (_UNREADABLE.search(got) is None) != (_UNREADABLE.search(wanted) is None):
        return Verdict(False, "math: unclear", "hedged")
    got, wanted = (text.replace("\\degree", "\\cdot\\frac{\\pi}{180}") for text in (got, wanted))
    return math_pool.shared().verify(wanted, got)


_NAMED_SETS = {
    **dict.fromkeys(
        ("empty set", "the empty set", "no solution", "no solutions", "no real solution", "no real solutions"),
        "\\emptyset",
    ),
    **dict.fromkeys(("all real numbers", "all reals", "the real numbers"), "\\mathbb{R}"),
    **dict.fromkeys(("infinity", "positive infinity"), "\\infty"),
    **dict.fromkeys(("negative infinity", "minus infinity"), "-\\infty"),
}
_THERE_IS = re.compile(r"^(?:there (?:is|are)|it has|the equation has|the answer is|has) ")


def _is_words(gold: str) -> bool:
    text = plain(gold)
    return _WORDS.fullmatch(text) is not None and side(gold).amount is None and not _MATHEMATICS.search(text)


_MATHEMATICS = re.compile(
    r"^(?:infinity|pi|sin|cos|no (?:real )?solutions?|empty set|all real numbers|[a-z]{1,2}|[A-Z])$", re.I
)
_SAYING = re.compile(
    r"(?:.{0,300}\b(?:answer|it|result|this|that|day|word|name|solution)\b.{0,60}?(?:\b(?:is|was|on|be)\b|:)|答案[是为:：]?)\s*"
    r"(?:(?:on|in|a|an|the|called|:)\s+)*",
    re.I | re.DOTALL,
)
_DOUBT = re.compile(r"\b(?:or|not|maybe|perhaps|either|n't|but)\b|\?", re.I)


def _grade_words(answer: str, gold: str) -> Verdict:
    """A word or words, alone or as what a sentence says."""
    wanted, said = fold(gold), fold(answer)
    if said == wanted:
        return Verdict(True, "math: words")
    prefix = said[: len(said) - len(wanted)]
    right = said.endswith(wanted) and _SAYING.fullmatch(prefix) is not None and not _DOUBT.search(prefix)
    return Verdict(right, "math: words", "" if right else "other words")
