"""When two numbers count as equal: the rules of the benchmarks, by name, in one table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from saccade.grading.arithmetic import evaluate
from saccade.grading.latex import normal
from saccade.grading.verdict import Verdict
from saccade.parsing import plain, read_number

ROUND_OFF = 1e-9
"""Relative difference below which two numbers are the same number written twice."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """One rule. Everything that is set must hold; `relative` and `absolute` are bounds on |answer - gold|."""

    source: str
    relative: float = ROUND_OFF
    absolute: float = 0.0
    decimals: int | Literal["stated"] | None = None
    """Both are rounded to so many decimals and must then be equal; 'stated': to the item's own precision."""
    truncate: bool = False
    """Both lose what stands behind the point before they are compared."""
    hundredfold: bool = False
    """A hundred times the answer, or a hundredth of it, will do as well."""
    float_only: bool = False
    """Only what `float()` reads is a number, a closing % divides by 100; the rest, and a gold of 0, is text."""


TOLERANCES: dict[str, Tolerance] = {
    "exact": Tolerance("the same number but for round-off"),
    "mathvista_float": Tolerance("MathVista, official: round(x, precision), then equality", decimals="stated"),
    "mathvista_integer": Tolerance("MathVista, official: int(float(x)), then equality", truncate=True),
    "mm_math": Tolerance("MM-Math, official", relative=0.0, absolute=0.0101, hundredfold=True),
    "math_vision": Tolerance("MATH-Vision, official: equal at two decimals", decimals=2),
    "math_vision_vlmeval": Tolerance("MATH-Vision in VLMEvalKit and Qwen3-VL", relative=0.0, absolute=1e-6),
    "dynamath": Tolerance("DynaMath, official", relative=0.0, absolute=0.001),
    "chartqa": Tolerance("ChartQA relaxed accuracy, official", relative=0.05, float_only=True),
    "qwen_math": Tolerance("Qwen2.5-Math", relative=1e-4, hundredfold=True),
    "math_verify": Tolerance("math-verify: six decimals", decimals=6),
}


def grade_within(answer: str, gold: Any, rule: str, precision: int | None = None) -> Verdict:
    """Right when answer and gold are equal by the rule of that name in `TOLERANCES`.

    `precision`: the decimals that the item states, for the rules that ask for it. Raises ValueError for a rule that is
    not in the table, and for a missing `precision`.
    """
    tolerance, route = find_tolerance(rule), f"number: {rule}"
    if tolerance.decimals == "stated" and precision is None:
        raise ValueError(f"the rule {rule!r} rounds to the item's own precision; pass precision=1 or 2")
    if tolerance.float_only:
        right = _relaxed(answer, str(gold), tolerance)
        return Verdict(right, route, "" if right else "not within the tolerance")
    wanted = _number(gold)
    if wanted is None:
        return Verdict(None, route, f"gold {gold!r} is no number")
    got = _number(answer)
    if got is None:
        return Verdict(False, route, "no number")
    decimals = precision if tolerance.decimals == "stated" else tolerance.decimals
    right = any(_close(value, wanted, tolerance, decimals) for value in _readings(got, tolerance))
    return Verdict(right, route, "" if right else f"got {got:g}")


def find_tolerance(rule: str) -> Tolerance:
    """The rule of that name. Raises ValueError that lists the names."""
    if rule not in TOLERANCES:
        raise ValueError(f"got the tolerance {rule!r}, expected one of {', '.join(TOLERANCES)}")
    return TOLERANCES[rule]


def _readings(number: float, tolerance: Tolerance) -> Iterator[float]:
    yield number
    if tolerance.hundredfold:
        yield number * 100
        yield number / 100


def _close(value: float, wanted: float, tolerance: Tolerance, decimals: int | None) -> bool:
    if tolerance.truncate:
        return int(value) == int(wanted)
    if decimals is not None:
        return round(value, decimals) == round(wanted, decimals)
    return abs(value - wanted) <= max(tolerance.relative * abs(wanted), tolerance.absolute)


def _relaxed(answer: str, gold: str, tolerance: Tolerance) -> bool:
    value, wanted = _float(answer), _float(gold)
    if value is not None and wanted:  # a gold of 0 has no relative error
        return abs(value - wanted) <= tolerance.relative * abs(wanted)
    return answer.strip().lower() == gold.strip().lower()


def _float(text: str) -> float | None:
    text = text.strip()
    try:
        value = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _number(text: Any) -> float | None:
    """A number of any sort, or the value of plain arithmetic with roots and pi."""
    if isinstance(text, int | float):
        return float(text) if math.isfinite(text) else None
    number = read_number(str(text))
    if number is None and len(plain(str(text))) < 100 and (value := evaluate(normal(str(text)))) is not None:
        number = value.number
    return number
