"""Reading the number that an answer gives, as digits or words. Several different numbers read as None."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from saccade.parsing.claim_words import BOUND, CODE, DENIED, EVASIVE, NEGATED, OPERAND, words
from saccade.parsing.markup import LONGEST, plain
from saccade.parsing.number_words import MAGNITUDES, chinese_number, english_number, leading_number
from saccade.parsing.reading import Reading, found
from saccade.parsing.units import Unit, read_measure, read_unit

MAX_NUMBERS = 64
"""Numbers of a text that are looked at, from the last."""
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
_FIGURE = re.compile(
    r"(?:=|\banswer\b[^-+0-9.\\]{0,20}|\bis\b\s*+:?|答案(?:是|为)?\s*+:?|\bso\b|\b(?:total(?:\sof)?|altogether|in\sall)\b[,:]?)\s*(?=[-+\d\\]|\.\d)",
    re.I,
)
_EXPRESSION = re.compile(r"\\sqrt|√|\\pi(?![a-z])|π|\d\s?pi\b|\\log|\\sin|\\cos|\\tan")
_RAISED = re.compile(r"\)?\s?\^|[xX_][\da-fA-F]")
_DEGREES = re.compile(r"\^\s?\{?\s?\\(?:circ|degree)\s?\}?|\\degree|\\circ")
_BRACED = re.compile(r"\^\s?\{\s?([-+]?\d{1,4})\s?\}")
_CLOCK = re.compile(r"\d:\d|\d\s:\s\d")
_SIMPLE = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_GAP = re.compile(r"(?:\s|\\[,;:! ]|~)*")
_PERCENT = re.compile(r"\s?(?:\\?%|percent\b|per\scent\b)", re.I)
_MAGNITUDE = re.compile(
    r"\s?(hundred|thousand|million|billion|trillion|dozen|lakh|crore|万|亿)(?![a-z])|(?<=\d)(?-i:([kKMB]))(?![A-Za-z])",
    re.I,
)
_SHORT_MAGNITUDES = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9}
_FUNCTIONS = r"""log, ln, lg, sqrt, sin, cos, tan, exp, abs, roots?, square, cube, logarithm, factorial, reciprocal,
inverse, double, half, third, quarter, doubled, tripled, halved, multiple, power, past"""
_WORKED_OUT = re.compile(rf"(?:{words(_FUNCTIONS)}(?:\s(?:of|root))*+\s*+\(?|[<>≤≥√]\s?=?|-|\\[lg]eq?)\s*$", re.I)
"""Stands in front of a number that is only part of what is said."""
_PART = re.compile(
    r"\so'clock|\s?!|\+(?!\d)|(?:st|nd|rd|th)\b|\s?\\?%\s?\d|\s*(?:[*^]|\\cdot|\\times)|\s[-+]\s?\d|-ish|\stoo\s(?:many|few|much|low|high)\b|"
    r"\s(?:to the (?:power|\w{3,10} power)|squared|cubed|factorial|times|choose|mod|plus|minus|divided|or|and)\b"
    r"(?!\s+(?:not|a half|it|so|that|the)\b)",
    re.I,
)
"""Follows a number that is only part of what is said."""
_ATTACHED = re.compile(r"[A-Za-z]+")
_ASSIGNMENTS = re.compile(
    r"^[ \t]*\w{1,40}[ \t]*=[^=\n;]{0,200}[\n;][ \t]*\w{1,40}[ \t]*=|=\s?(?:True|False)\b", re.MULTILINE
)
_COUNTED = re.compile(
    r"(?<![\d.,]\s)(?<![\d.,])1,\s2(?:,\s\d{1,3}){1,98}(?=[.;!]\s+(?:There|So|The|That|In|Total|Answer|I)\b|,\sso\s)"
)
"""'1, 2, 3, 4' in front of the sentence that says how many there are."""
_HALF = re.compile(r"\s*and\s+a\s+half\b", re.I)
_WORDS_SAID = re.compile(
    r"(?:\b(?:is|are|it's|answer|total|count|say|see|shows?|has|have|just|exactly|only|precisely)\b|[:=])\s*(?::\s*)?(?!.*(?:\b(?:is|are)\b|[:=]))",
    re.I,
)
_REPEATED = re.compile(r"\s*\(([A-Za-z -]{3,60})\)")


_FOREIGN = re.compile(
    r"(?P<before>[^\d,.()\[\]{}<>;]{0,16})(?:(?P<indian>\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d{1,9})?)|"
    r"(?P<whole>\d{1,3}(?:[.' \u2009\u202f]\d{3})+|\d{1,12}),(?P<part>\d{1,2}|\d{4,12}|(?<=(?<!\d)0,)\d{3})|"
    r"(?P<dotted>\d{1,3}(?:\.\d{3}){2,}))(?P<after>[^\d,()\[\]{}<>;]{0,40})"
)
_NONE = re.compile(
    r"there\s(?:(?:is|are|was|were)\s(?:no\s(?!more|less|fewer|doubt|way|need|reason|answer|idea|clue)|none\b|not\sany\s)|"
    r"(?:is|are|was|were)n't\sany\s)[^\d,;]{0,80}",
    re.I,
)
"""'There are no cars.'"""


def with_point(text: str) -> str:
    """A text that is one number with a decimal comma ('1.234,5', '0{,}75') or Indian groups ('12,00,000') with a
    decimal point instead; any other text as it is."""
    found = _FOREIGN.fullmatch(text.replace("{,}", ",")) if "," in text or text.count(".") > 1 else None
    if found is None:
        return text
    number = found["indian"] or found["dotted"] or found["whole"]
    digits = number.replace(",", "") if found["indian"] else re.sub(r"\D", "", number)
    return f"{found['before']}{digits}{'.' + found['part'] if found['part'] else ''}{found['after']}"


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

    A number counts only when it is what is said: 'not 7', 'half of 7', '7!', 'at least 7', '7x', 'another answer is 7'
    and programs give none.
    Reads thousands separators, decimals, exponents, fractions (3/4, \\frac{3}{4}), mixed numbers, units, degrees, a
    percent sign (50% reads as 50), number words and Chinese numerals when nothing else is there, and the number after
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
    text = _SPACED.sub("", plain(text[-LONGEST:])[-LONGEST:])
    if "\\" in text or "^" in text:
        text = _BRACED.sub(r"^\1", _DEGREES.sub("°", text))
    if not text:
        return Reading(None, reason="nothing")
    if CODE.search(text) or _ASSIGNMENTS.search(text):
        return Reading(None, reason="code")
    if EVASIVE.search(text):
        return Reading(None, reason="hedged")
    if _NONE.fullmatch(text):
        return found(Quantity(0.0), "none")
    text = _COUNTED.sub(_counted, text)
    if not text[0].isdigit() and (spelled := _in_words(text)) is not None:
        return found(spelled, "words")
    cues = [m.end() for m in _FIGURE.finditer(text)]
    start = cues[-1] if cues else 0
    matches = list(_NUMBER.finditer(text, start))[-MAX_NUMBERS:]
    if not matches:
        return Reading(None, reason="no number")
    if _EXPRESSION.search(text, start) or any(_RAISED.match(text, m.end()) for m in matches):
        return Reading(None, reason="an expression")
    if _CLOCK.search(text, start):
        return Reading(None, reason="a ratio or a time of day")
    said = [m for m in matches if not _denied(text, m)]
    values = {_value(m) for m in said}
    if not said or (len(values) == 1 and not all(_stands_alone(text, m) for m in said)):
        return Reading(None, reason="not the number itself")
    if len(values) > 1 or _repeats_another(text, said[-1]):
        return Reading(None, reason="several numbers")
    number = values.pop()
    if number is None:
        return Reading(None, reason="not a finite number")
    return found(_with_tail(number, text, said[0].end()), "after a cue" if cues else "digits")


def _counted(run: re.Match[str]) -> str:
    """Nothing for a run that counts up from one; any other list as it is."""
    numbers = [int(number) for number in run[0].split(",")]
    return "" if numbers == list(range(1, len(numbers) + 1)) else run[0]


def _denied(text: str, number: re.Match[str]) -> bool:
    before = text[max(0, number.start() - 24) : number.start()]
    return NEGATED.search(before) is not None or DENIED.match(text, number.end()) is not None


def _stands_alone(text: str, number: re.Match[str]) -> bool:
    """Whether a number is said itself, and not as part of an expression, a bound or a label."""
    before = text[max(0, number.start() - 24) : number.start()]
    if BOUND.search(before) or _WORKED_OUT.search(before):
        return False
    if before[-1:] in ("(", "[", "{") and "," in number[0] and text[number.end() : number.end() + 1] in (")", "]", "}"):
        return False
    attached = _ATTACHED.match(text, number.end())
    if attached is not None and _MAGNITUDE.match(text, number.end()) is None and read_measure(attached[0]) is None:
        return False
    return _PART.match(text, number.end()) is None and OPERAND.match(text, number.end()) is None


def _repeats_another(text: str, number: re.Match[str]) -> bool:
    """'8 (nine)'."""
    again = _REPEATED.match(text, number.end())
    value = english_number(again[1]) if again else None
    return value is not None and float(value) != _value(number)


def _in_words(text: str) -> Quantity | None:
    """Number words that are the whole text, or follow its last 'is'."""
    if (spelled := _spelled(text)) is not None or len(text) > 300:
        return spelled
    said = _WORDS_SAID.search(text)
    return _spelled(text[said.end() :]) if said and not NEGATED.search(text[: said.end()]) else None


def _spelled(text: str) -> Quantity | None:
    percent = text.startswith(("百分之", "负百分之"))
    number = chinese_number(text.replace("百分之", "", 1) if percent else text.rstrip(" .。"))
    if number is None and (words := leading_number(text.rstrip(" .!"))) is not None:
        number, percent = float(words[0]), _PERCENT.match(words[1]) is not None
    return None if number is None else Quantity(number, percent)


def _with_tail(number: float, text: str, end: int) -> Quantity:
    """The number with what stands behind it."""
    gap = _GAP.match(text, end)
    end = gap.end() if gap else end
    if _PERCENT.match(text, end):
        return Quantity(number, percent=True)
    magnitude = 1.0
    if half := _HALF.match(text, end):
        number, end = number + math.copysign(0.5, number), half.end()
    if match := _MAGNITUDE.match(text, end):
        magnitude = MAGNITUDES[match[1].lower()] if match[1] else _SHORT_MAGNITUDES.get(match[2], 1e3)
        end = match.end()
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
