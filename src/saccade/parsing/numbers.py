"""Reading the number that an answer gives, as digits or words. Several different numbers read as None."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from saccade.parsing.markup import LONGEST, plain
from saccade.parsing.number_words import MAGNITUDES, chinese_number, english_number
from saccade.parsing.reading import Reading, found
from saccade.parsing.units import Unit, read_unit

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+"
_TEN = r"10\s?\^\s?([-+]?\d{1,4})"
_NUMBER = re.compile(
    rf"(?<![A-Za-z_0-9.^\\])((?:-|\b(?:minus|negative)\b|负)\s?|\+)?(?:"
    rf"(?:(\d+)\s?(?=\\[dt]?frac))?\\[dt]?frac\s?(?:\{{\s?({_DIGITS})\s?\}}|(\d))\s?(?:\{{\s?({_DIGITS})\s?\}}|(\d))"
    rf"|(\d+)\s(\d+)\s?/\s?(\d+)(?![\d/.])"
    rf"|{_TEN}(?!\d)"
    rf"|({_DIGITS})(?:\s?[eE]([-+]?\d+)(?![\w.])|\s?(?:\*|\\times|\\cdot|[x·])\s?{_TEN})?(?:\s?/\s?({_DIGITS})(?![\d/]))?)",
    re.I,
)
_SPACED = re.compile(r"(?<=\d)(?:\\[!,;: ]|\{,\}|[ '\u2009\u202f])(?=\d{3}(?!\d))")
_FIGURE = re.compile(r"(?:=|\banswer\b[^-+0-9.\\]{0,20}|\bis\b\s*:?|答案(?:是|为)?\s*:?)\s*(?=[-+.\d\\])", re.I)
_EXPRESSION = re.compile(r"\\sqrt|√|\\pi(?![a-z])|π|\d\s?pi\b|\\log|\\sin|\\cos|\\tan")
_RAISED = re.compile(r"\)?\s?\^|[xX_][\da-fA-F]")
_DEGREES = re.compile(r"\^\s?\{?\s?\\(?:circ|degree)\s?\}?|\\degree|\\circ")
_BRACED = re.compile(r"\^\s?\{\s?([-+]?\d{1,4})\s?\}")
_CLOCK = re.compile(r"\d:\d|\d\s:\s\d")
_SIMPLE = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_GAP = re.compile(r"(?:\s|\\[,;:! ]|~)*")
_PERCENT = re.compile(r"\s?(?:\\?%|percent\b|per\scent\b)", re.I)
_MAGNITUDE = re.compile(r"\s?(hundred|thousand|million|billion|trillion|万|亿)(?![a-z])", re.I)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as an answer gives it, with what is written behind it."""

    number: float
    """Without the percent sign and the magnitude: 50 for '50%', 1.5 for '1.5 million'."""
    percent: bool = False
    magnitude: float = 1.0
    """1e6 for '1.5 million'."""
    unit: Unit | None = None
    """None when none is written or it is not known."""


def read_number(text: str) -> float | None:
    """The number that an answer gives, or None when it gives none or several different ones.

    Reads thousands separators, decimals, exponents, fractions (3/4, \\frac{3}{4}), mixed numbers, units, degrees, a
    percent sign (50% reads as 50), number words and Chinese numerals when they stand alone, and the number after
    'answer is' or the last '='. What needs working out (roots, powers but those of ten, pi, 3:4) is no number here.
    """
    quantity = parse_quantity(text).value
    return None if quantity is None else quantity.number * quantity.magnitude


def parse_number(text: str) -> Reading[float]:
    """As `read_number`, with the rule or the reason."""
    reading = parse_quantity(text)
    if reading.value is None:
        return Reading(None, reason=reading.reason)
    return found(reading.value.number * reading.value.magnitude, reading.how)


def read_quantity(text: str) -> Quantity | None:
    """The number of an answer with its percent sign, magnitude ('million') and unit; None as `read_number`."""
    return parse_quantity(text).value


def parse_quantity(text: str) -> Reading[Quantity]:
    """As `read_quantity`, with the rule or the reason. Takes any string; linear in its length."""
    if len(text) < 25 and _SIMPLE.fullmatch(text):
        return found(Quantity(float(text)), "digits")
    text = _SPACED.sub("", plain(text[-LONGEST:]))
    if "\\" in text or "^" in text:
        text = _BRACED.sub(r"^\1", _DEGREES.sub("°", text))
    if not text:
        return Reading(None, reason="nothing")
    if not text[0].isdigit() and (spelled := _spelled(text)) is not None:
        return found(spelled, "words")
    cues = [m.end() for m in _FIGURE.finditer(text)]
    start = cues[-1] if cues else 0
    matches = list(_NUMBER.finditer(text, start))
    if not matches:
        return Reading(None, reason="no number")
    if _EXPRESSION.search(text, start) or any(_RAISED.match(text, m.end()) for m in matches):
        return Reading(None, reason="an expression")
    if _CLOCK.search(text, start):
        return Reading(None, reason="a ratio or a time of day")
    values = {_value(m) for m in matches}
    if len(values) > 1:
        return Reading(None, reason="several numbers")
    number = values.pop()
    if number is None:
        return Reading(None, reason="not a finite number")
    return found(_with_tail(number, text, matches[0].end()), "after a cue" if cues else "digits")


def _spelled(text: str) -> Quantity | None:
    percent = text.startswith(("百分之", "负百分之"))
    number = chinese_number(text.replace("百分之", "", 1) if percent else text.rstrip(" .。"))
    number = english_number(text.rstrip(" .!")) if number is None else number
    return None if number is None else Quantity(number, percent)


def _with_tail(number: float, text: str, end: int) -> Quantity:
    """The number with what stands behind it."""
    gap = _GAP.match(text, end)
    end = gap.end() if gap else end
    if _PERCENT.match(text, end):
        return Quantity(number, percent=True)
    magnitude = 1.0
    if match := _MAGNITUDE.match(text, end):
        magnitude, end = MAGNITUDES[match[1].lower()], match.end()
    unit = read_unit(text, end + (text[end : end + 1] == " "))
    return Quantity(number, magnitude=magnitude, unit=unit[0] if unit else _currency(text))


def _currency(text: str) -> Unit | None:
    return Unit("yuan", 1.0) if text.startswith("¥") else None


def _value(match: re.Match[str]) -> float | None:
    sign, whole, top, top1, bottom, bottom1, mixed, over, under, ten, digits, exponent, tens, divisor = match.groups()
    try:
        if digits:
            power = exponent or tens
            number = float(digits.replace(",", "") + (f"e{power}" if power else "")) / _float(divisor or "1")
        elif ten:
            number = float(f"1e{ten}")
        elif mixed:
            number = float(mixed) + float(over) / float(under)
        else:
            number = float(whole or 0) + _float(top or top1) / _float(bottom or bottom1)
    except (ZeroDivisionError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return -number if sign and sign != "+" and number else number


def _float(digits: str) -> float:
    return float(digits.replace(",", ""))
