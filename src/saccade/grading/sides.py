"""One side of a comparison, read once: its spelling, its number with unit and percent, its matrix, date or time."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

from saccade.grading.arithmetic import Value, evaluate
from saccade.grading.latex import normal
from saccade.parsing import plain
from saccade.parsing.number_words import DENOMINATORS, MAGNITUDES, chinese_number, leading_number
from saccade.parsing.units import Measure, read_measure


@dataclass(frozen=True, slots=True)
class Amount:
    """A number with what is written behind it."""

    value: Value
    text: str
    """The number in normal form, for its decimals."""
    percent: bool = False
    measure: Measure | None = None


@dataclass(frozen=True)
class Side:
    """A text without prose, and its readings. `form` has no name and no spaces, `named` keeps 'x ='."""

    raw: str
    plain: str
    form: str
    amount: Amount | None = field(compare=False)

    @property
    def named(self) -> str:
        return normal(self.raw, named=True)


@lru_cache(maxsize=8192)
def side(text: str) -> Side:
    """The readings of a text; any text has them."""
    form = normal(text)
    return Side(text, plain(text).rstrip("."), form, _amount(text, form))


_NOT_UNITS = re.compile(
    r"(?:st|nd|rd|th|times\s(?:the|as|an?|more)|or|and|to|pi|sqrt|sin|cos|tan|log|ln|exp|mod|choose|over|if|is|not|but|than|in(?=\s))\b|[ap]\.?m\b|[xyznabi]\b|k\b(?!$)"
)
_UNIT_START = re.compile(
    r"(?<=[\d)}\].])(?:\s|\\[,;:! ]|~)*(?=[A-Za-z°%Ωµμ℃€£¥¢$\u4e00-\u9fff]|\\(?:%|Omega|mu|degree)|\^\s?\{?\s?\\circ)|"
    r"(?<=π)\s*(?=[a-zA-Z])|(?<=\\pi)(?:\s|\\[,;:! ]|~)+(?=[a-zA-Z])"
)
_MAGNITUDE = re.compile(
    r"(?:(hundred|thousand|million|billion|trillion|dozen|lakh|crore|万|亿)|([kKMB])(?=$|\s))\s*(?:of\s)?"
)
_PARTS_OF_ONE = re.compile(rf"({'|'.join(DENOMINATORS)})\b\s*(?:of\s)?")
_LETTERS = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9}
_PERCENT = re.compile(r"\\?%|percent\b|per\s?cent\b|pct\b|percentage points?\b")
_CURRENCY = re.compile(
    r"^(-?)\s?(?:(?:US|CA|AU)?(?:\\?\$|[€£¥₹])|(?:US|CA|AU|HK|USD|EUR|GBP|INR|Rs\.?)(?=\s?\d))\s?(?=[-\d.])"
)
_MICRO = re.compile(r"\\mu\s*")
_DEGREE = re.compile(r"\^\s?\{?\s?\\circ\s?\}?|\\degree")
_ANGLE = re.compile(r"°|circ|\\degree|\bdegrees?\b(?!\s*[A-Z])|度")
_ABOUT = re.compile(r"^(?:about|approximately|approx\.?|roughly|around|~|≈|\\approx|\\sim|=|:)\s*", re.I)


def _amount(text: str, form: str) -> Amount | None:
    if (value := evaluate(form)) is not None:
        return Amount(value, form, measure=read_measure("°") if _ANGLE.search(text) else _currency_of(text))
    shown = _ABOUT.sub("", plain(text.replace("\\$", "$")) if "$" not in text else plain(text)).rstrip(".").strip()
    money = _currency_of(text)
    shown = _MARKED.sub(lambda mark: f"{mark[1]} {'in' if mark[2] == chr(34) else 'ft'}", shown)
    shown, named = _CURRENCY.subn(r"\1", shown)
    if (spelled := _spelled(shown)) is not None:
        return spelled
    if (compound := read_compound(shown)) is not None:
        return compound
    for tries, start in enumerate(_UNIT_START.finditer(shown)):
        if (amount := _with_unit(shown[: start.start()], shown[start.end() :], money)) is not None:
            return amount
        if tries == 8:
            break
    value = evaluate(normal(shown)) if money or named else None
    return Amount(value, normal(shown), measure=money) if value is not None else None


def _with_unit(number: str, phrase: str, money: Measure | None) -> Amount | None:
    if _NOT_UNITS.match(phrase):
        return None
    if part := _PARTS_OF_ONE.match(phrase):
        number, phrase = f"({number})/{DENOMINATORS[part[1]]}", phrase[part.end() :]
        if not phrase and (value := evaluate(normal(number))) is not None:
            return Amount(value, normal(number), measure=money)
    phrase = _MICRO.sub("μ", _DEGREE.sub("°", phrase))
    form = normal(number)
    value = evaluate(form)
    if value is None:
        return None
    if (percent := _PERCENT.match(phrase)) is not None:
        return Amount(value, form, True, money) if _plain_rest(phrase[percent.end() :]) else None
    if (size := _MAGNITUDE.match(phrase)) is not None:
        factor = Fraction(MAGNITUDES.get(size[1] or "", 0) or _LETTERS.get(size[2] or "", 12))
        exact = None if value.exact is None else value.exact * factor
        value, form = Value(value.number * float(factor), value.irrational, exact), ""
        phrase = phrase[size.end() :]
        if not phrase:
            return Amount(value, form, measure=money)
    measure = read_measure(phrase)
    return Amount(value, form, measure=measure if money is None else money) if measure is not None else None


_COMPOUND = re.compile(r"(?:\d+(?:\.\d+)?\s*[A-Za-z]{1,12}\.?(?:\s*,\s*|\s+and\s+|\s*)){2,4}")
_MARKED = re.compile(r"^([\d./ ]{1,20})(['\"])$")
"""8\" and 6'."""
_FEET = re.compile(r"(?<!\d)(\d+)'\s?(\d+(?:\.\d+)?)(?:\"|'')")
_COMPOUND_PART = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)\s*([A-Za-z]{1,12})")


def read_compound(text: str) -> Amount | None:
    """'5 hours 30 minutes', '6 ft 2 in': a sum of ever smaller units of one kind, in the first of them."""
    text = _FEET.sub(r"\1 ft \2 in", text)
    if len(text) > 80 or not _COMPOUND.fullmatch(text):
        return None
    found = _COMPOUND_PART.findall(text)
    timed = found[0][1].startswith(("h", "d"))  # 2h 5m
    parts = [(Fraction(number), read_measure("min" if timed and unit == "m" else unit)) for number, unit in found]
    first = parts[0][1]
    total, last = 0.0, math.inf
    for number, measure in parts:
        if measure is None or first is None or measure.powers != first.powers or measure.noun or measure.factor >= last:
            return None
        total, last = total + float(number) * measure.factor, measure.factor
    return Amount(Value(total / first.factor), "", measure=first) if first is not None else None


def _plain_rest(text: str) -> bool:
    return re.fullmatch(r"[\sA-Za-z.]*", text) is not None and not re.search(r"\b(?:or|and|to)\b", text)


_LONE_DOLLAR = re.compile(r"[-+]?\$\s?[\d.][^$]*$")


def _currency_of(text: str) -> Measure | None:
    if "\\$" in text or _LONE_DOLLAR.match(text):
        return read_measure("$")
    for sign in "€£¥₹":
        if sign in text:
            return read_measure(sign)
    return None


def _spelled(text: str) -> Amount | None:
    """A number in words, with a noun or not."""
    if not text or text[0].isdigit() or len(text) > 80:
        return None
    if (number := chinese_number(text)) is not None:
        return Amount(Value(number, exact=Fraction(str(number))), "")
    if (words := leading_number(text)) is None or (words[1] and _NOT_UNITS.match(words[1])):
        return None
    number, rest = words
    percent = bool(rest) and _PERCENT.match(rest) is not None
    measure = read_measure(rest) if rest and not percent else None
    if rest and measure is None and not percent:
        return None
    return Amount(Value(float(number), exact=number), "", percent, measure)


_MATRIX = re.compile(
    r"\\begin\s?\{([pbBv]?matrix|array|smallmatrix)\}(?:\{[clr|\s]{0,99}\})?(.{0,2000}?)\\end\s?\{\1\}", re.DOTALL
)
_AROUND = re.compile(
    r"^\s*+(?:[A-Za-z]\w*+\s*+=\s*+|\\(?:vec|mathbf|boldsymbol)\s?\{\w+\}\s*+=\s*+)?(?:\\left)?[(\[]?\s*$"
)
_ROW = re.compile(r"\\\\(?:\s?\[[^\]]{0,9}\])?|\\cr\b")
_SPACED_ROWS = re.compile(r"\[\s?[^\s\[\],;]{1,30}(?:[ ;]\s?[^\s\[\],;]{1,30}){1,30}\s?\]")
"""'[0 -1; 1 0]'."""
_NESTED = re.compile(r"\[\s*\[[^\[\]]*\](?:\s*,\s*\[[^\[\]]*\])*\s*\]")


_VECTOR_TERM = re.compile(
    r"\s{0,16}+([-+]?)\s{0,16}+([^-+\s]{0,60}?)\s{0,16}+\\(?:hat|vec|mathbf|boldsymbol|bm|overrightarrow|mathbf\{\\hat)\s?\{\\?([ijk])(?:math)?\s?\}\}?"
)


def _unit_vectors(text: str) -> list[str] | None:
    """The coordinates of '2\\mathbf{i} - \\mathbf{j}'; None for anything else."""
    terms = list(_VECTOR_TERM.finditer(text))
    if not terms or "".join(term[0] for term in terms) != text.strip():
        return None
    found = {term[3]: normal(f"{term[1]}{term[2] or '1'}".lstrip("+")) for term in terms}
    return [found.get(name, "0") for name in ("ijk" if "k" in found else "ij")] if len(found) == len(terms) else None


def _cells(row: str) -> list[str]:
    return [normal(cell, named=True) for cell in row.split("&")]


_SCALAR = re.compile(r"(?<![\w}])(?:-?\d+(?:/\d+)?|-?\\[dt]?frac\s?\{-?\d+\}\s?\{\d+\})\s*(?:\\cdot\s*)?$")


def read_matrix(text: str) -> list[list[str]] | None:
    """The cells of a matrix, in normal form; None when the text is no matrix and nothing else."""
    text = text.strip().rstrip(".").replace("$", "")
    match = _MATRIX.search(text) if "\\begin" in text else None
    if match is not None:
        after = text[match.end() :].replace("\\right", "").strip(" )].")
        before = _SCALAR.sub("", text[: match.start()])
        scalar = text[len(before) : match.start()].removesuffix("\\cdot").strip()
        if not _AROUND.match(before) or after or match[1] == "vmatrix":
            return None
        rows = [row for row in _ROW.split(match[2].replace("\\hline", "")) if row.strip()]
        factor = f"{normal(scalar)}*" if scalar else ""
        return [[f"{factor}({cell})" if factor else cell for cell in _cells(row)] for row in rows]
    if (coordinates := _unit_vectors(text)) is not None:
        return [[cell] for cell in coordinates]
    if ";" in text and " " in text and _SPACED_ROWS.fullmatch(text):
        return [[normal(cell) for cell in row.split()] for row in text.strip("[]").split(";")]
    if _NESTED.fullmatch(text):
        return [[normal(cell, named=True) for cell in row.split(",")] for row in re.findall(r"\[([^\[\]]*)\]", text)]
    return None


_CLOCK = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?\s*(?:([ap])\.?\s?m\.?)?", re.I)
_HOUR = re.compile(r"(\d{1,2})\s*(?:o'clock\s*)?([ap])\.?\s?m\.?", re.I)


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds since midnight, and whether it can only be a time of day."""

    seconds: int
    surely: bool


def read_clock(text: str) -> Clock | None:
    """A time of day: '17:05', '17:05:00', '5:05 PM', '5 pm'."""
    text = text.strip()
    match = _CLOCK.fullmatch(text) or _HOUR.fullmatch(text)
    if match is None:
        return None
    half = match[match.lastindex or 1] if (match[match.lastindex or 1] or "").lower() in ("a", "p") else None
    hour = int(match[1])
    minute = int(match[2]) if match.re is _CLOCK else 0
    second = int(match[3] or 0) if match.re is _CLOCK else 0
    if half is not None:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half.lower() == "p" else 0)
    return (
        Clock(hour * 3600 + minute * 60 + second, half is not None or bool(match.re is _CLOCK and match[3]))
        if hour < 25
        else None
    )


_TO = re.compile(r"\s{0,16}+:\s*+|[\s-]{1,16}+to[\s-]++")
_RATIO = re.compile(
    rf"(?:(?:the|an?)\s)?(?:ratio\s(?:of|is)\s)?(-?[\d./]+(?:(?:{_TO.pattern})-?[\d./]+)+)(?:\sratio)?", re.I
)


def read_ratio(text: str) -> tuple[Fraction, ...] | None:
    """The terms of '3:4', '1 : 2 : 3', '2 to 3', over their first that is not 0."""
    text = text.replace("\\colon", ":")
    match = _RATIO.fullmatch(text)
    if match is None:
        return None
    terms = [evaluate(term) for term in _TO.split(match[1])]
    exact = [term.exact for term in terms if term is not None and term.exact is not None]
    if len(exact) != len(terms) or not any(exact):
        return None
    first = next(term for term in exact if term)
    return tuple(term / first for term in exact)


_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,9}\.?"
_DATES = (
    (re.compile(rf"{_MONTH}\s+(\d{{1,2}})(?!\d)(?:st|nd|rd|th)?(?:\s*(?:,\s*)?(\d{{4}}))?", re.I), (0, 1, 2)),
    (re.compile(rf"(\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?:\s*(?:,\s*)?(\d{{4}}))?", re.I), (1, 0, 2)),
    (re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})"), (1, 2, 0)),
)


def find_dates(text: str) -> set[tuple[int, int, int | None]]:
    """All dates in a text, as `read_date` has them."""
    return {date for pattern, _ in _DATES for one in pattern.finditer(text) if (date := read_date(one[0])) is not None}


def read_date(text: str) -> tuple[int, int, int | None] | None:
    """(month, day, year) of a date with its month in words, or of the form 2021-03-05; None for anything else."""
    text = text.strip()
    for pattern, (month, day, year) in _DATES:
        if (match := pattern.fullmatch(text)) is not None:
            parts = match.groups()
            number = _MONTHS.index(parts[month][:3].lower()) + 1 if parts[month][0].isalpha() else int(parts[month])
            return number, int(parts[day]), None if parts[year] is None else int(parts[year])
    return None
