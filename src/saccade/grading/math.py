"""Is a mathematical answer equal to the gold? Cheap rules first, a symbolic check in another process last."""

from __future__ import annotations

import math
import re
from typing import Any

from saccade.grading import math_pool
from saccade.grading.answers import grade_number, grade_text
from saccade.grading.latex import Value, evaluate, normal
from saccade.grading.verdict import Verdict
from saccade.parsing import read_number

MAX_ANSWER = 2_000
"""Characters of an answer that are looked at; a longer one is no answer."""
_DECIMAL = re.compile(r"-?\d*\.(\d+)")
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")
_UNIT = (
    r"[mckd]?m|[mk]?g|min|s|h|%|°|\\%|rad|deg(?:rees?)?|units?|squareunits?|dollars?|hours?|minutes?|seconds?|"
    r"(?:centi|milli|kilo)?met(?:er|re)s?|inch(?:es)?|feet|ft|miles?|[\u4e00-\u9fff]{1,6}"
)
_WITH_UNIT = re.compile(rf"-?[\d.,]+(?:{_UNIT})(?:\^?\{{?[23]\}}?)?(?:/(?:{_UNIT})(?:\^?\{{?[23]\}}?)?)?")


def grade_math(answer: str, gold: Any) -> Verdict:
    r"""Right when the answer's expression equals the gold's.

    In order: the same spelling (`exact`), plain arithmetic on both sides (`numeric`: fractions, roots, powers, pi; a
    decimal gold is met by an irrational number that rounds to it), numbers with a unit (`unit`), and math-verify in a
    process that can be killed (`symbolic`); a gold that is a word is compared as text. What cannot be decided in its
    CPU time is wrong; a gold that cannot be read, or a machine too busy to grade, gives no verdict.
    """
    wanted = normal(str(gold))
    if not wanted:
        return Verdict(None, "math: gold", f"gold {gold!r} is empty")
    if len(answer) > MAX_ANSWER:
        return Verdict(False, "math: length", f"{len(answer)} characters")
    got = normal(answer)
    if not got:
        return Verdict(False, "math: empty", "no answer")
    if got == wanted:
        return Verdict(True, "math: exact")
    if _DATE.fullmatch(got) and _DATE.fullmatch(wanted) is None and "/" not in got:
        return Verdict(False, "math: date", "a date is no sum")
    mine, theirs = evaluate(got), evaluate(wanted)
    if mine is not None and theirs is not None:
        right = _equal(mine, theirs, wanted)
        return Verdict(right, "math: numeric", "" if right else f"got {mine.number:g}")
    if theirs is not None and _WITH_UNIT.fullmatch(got) and read_number(wanted) is not None:
        verdict = grade_number(got, wanted)
        return Verdict(verdict.right, "math: unit", verdict.detail)
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
