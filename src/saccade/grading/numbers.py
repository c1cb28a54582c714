"""When two numbers of mathematics are the same number: exact where both are rational, relative where one is not."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from saccade.grading.arithmetic import Value

Units = Literal["optional", "required", "ignored"]
Order = Literal["brackets", "any", "strict"]


@dataclass(frozen=True, slots=True)
class MathRules:
    """What counts as equal beyond exact equality. Whole numbers, fractions, zero and the sign are exact in any case."""

    digits: int = 6
    """Significant digits from which a decimal answer stands for a number that has no end; 1 or more."""
    gold_decimals: int = 2
    """Decimals of a gold from which an irrational answer that rounds to it is right: 2\\sqrt{3} for 3.46."""
    units: Units = "optional"
    """'optional': units on both sides must come to the same, a missing one is forgiven; 'required': the gold's must be
    there; 'ignored': only the numbers count."""
    order: Order = "brackets"
    """'brackets': order counts in brackets and among different names; 'any': nowhere; 'strict': in lists too."""


DEFAULT = MathRules()
ROUND_OFF = 1e-9
"""Relative difference of two floats that are the same number computed in two ways."""
TAIL, TAIL_DIGITS, SHORT_DIGITS = 1e-14, 16, 12
"""A gold that a program computed, such as 0.30000000000000004, accepts the short decimal 0.3: the largest relative
difference, the minimum number of significant digits of the gold, and the maximum of the answer."""
_DECIMAL = re.compile(r"-?(\d*)(?:\.(\d*))?(?:(?:[eE]|\*10\^)\{?([-+]?\d{1,4})\}?)?")


def equal(mine: Value, gold: Value, my_text: str = "", gold_text: str = "", rules: MathRules = DEFAULT) -> bool:
    """Whether an answer's number is the gold's. The texts are normal forms, read for their decimals.

    Zero, sign and whole numbers are exact; rational numbers equal exactly. A long enough decimal stands for a
    fraction without end or an irrational number, an irrational number for a gold decimal that it rounds to (`rules`).
    """
    if mine.exact is not None and gold.exact is not None and mine.exact == gold.exact:
        return True
    x, y = mine.number, gold.number
    if x == 0 or y == 0 or (x < 0) != (y < 0):
        return abs(x - y) < 1e-15 and (mine.irrational or gold.irrational)
    both_exact = mine.exact is not None and gold.exact is not None
    if not both_exact and math.isclose(x, y, rel_tol=ROUND_OFF):
        return True
    if _digits(gold_text) >= TAIL_DIGITS and _digits(my_text) <= SHORT_DIGITS and math.isclose(x, y, rel_tol=TAIL):
        return True
    ours, theirs = _places(my_text), _places(gold_text)
    if ours is None and theirs is None:
        return False
    if both_exact:
        return _rounded(mine, gold, ours, theirs, rules.digits)
    if theirs is not None and ours is None:
        places, digits = theirs
        return places >= rules.gold_decimals and abs(x - y) <= 0.5 * 10.0**-places * (1 + 1e-9)
    if ours is not None and theirs is None:
        places, digits = ours
        return digits >= rules.digits and places > 0 and abs(x - y) <= 10.0**-places * (1 + 1e-9)
    return False


def _rounded(
    mine: Value, gold: Value, ours: tuple[int, int] | None, theirs: tuple[int, int] | None, least: int
) -> bool:
    """Two rational numbers that differ: one is a long decimal of the other."""
    known = [both for both in (ours, theirs) if both is not None]
    places, digits = min(known)
    if digits < least or places < 1:
        return False
    if len(known) == 2:
        return ours != theirs and places >= least and abs(mine.number - gold.number) <= 0.5 * 10.0**-places * (1 + 1e-9)
    endless = mine if ours is None else gold
    assert endless.exact is not None
    rest = endless.exact.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest > 1 and abs(mine.number - gold.number) <= 10.0**-places * (1 + 1e-9)


def _places(text: str) -> tuple[int, int] | None:
    """(decimal places, significant digits) of a decimal as it is written; None for any other expression."""
    match = _DECIMAL.fullmatch(text) if text else None
    if match is None or not (match[1] or match[2]):
        return None
    whole, decimals, power = match[1] or "", match[2] or "", int(match[3] or 0)
    if not decimals and not match[3]:
        return None
    return len(decimals) - power, len((whole + decimals).lstrip("0"))


def _digits(text: str) -> float:
    """Significant digits of a whole number or decimal as it is written; for any other expression more than all."""
    match = _DECIMAL.fullmatch(text) if text else None
    return math.inf if match is None else len(f"{match[1] or ''}{match[2] or ''}".lstrip("0"))


def close(mine: float, gold: float) -> bool:
    """Whether two numbers are equal but for the round-off of a change of units."""
    return math.isclose(mine, gold, rel_tol=ROUND_OFF)
