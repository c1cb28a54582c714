"""What is said in words although it has a notation: numerals with a base, times of day, inequalities."""

from __future__ import annotations

import re

from saccade.parsing.markup import fold
from saccade.parsing.number_words import english_number

_NUMERAL = r"(\d{1,2}|[a-z]{3,8}(?:-[a-z]{3,6})?)"
_BASE = re.compile(
    rf"\$?(?<![\w.])([\dA-F]{{1,40}})\$?\s*+[(,]?\s*+(?:in\s)?base[\s-]\$?{_NUMERAL}\$?\)?|"
    r"(?<=[\dA-F)])_\s?\{?\s?(?:\\text\s?\{)?\s?([a-z]{3,8})\s?\}{1,2}",
    re.I,
)
_HALF = {"morning": "AM", "afternoon": "PM", "evening": "PM", "night": "PM"}
_TIME = r"(\d{1,2}(?::\d\d)?|[a-z]{3,6})"
_PAST = re.compile(r"\b(?:an?\s)?(half|quarter)\s(past|to)\s(\d{1,2}|[a-z]{3,6})\b", re.I)
_CLOCK = re.compile(rf"\b{_TIME}(?:\so'clock)?\s(?:in\sthe|at)\s(morning|afternoon|evening|night)\b", re.I)
_SHARP = re.compile(rf"\b{_TIME}\so'clock\b", re.I)


def with_base(text: str) -> str:
    """`text` with '243 (base 8)' and '243_{eight}' as '243_{8}'."""
    return _BASE.sub(_based, text) if "base" in text or "_" in text else text


def with_times(text: str) -> str:
    """`text` with 'half past seven in the evening' as '7:30 PM', "six o'clock" as '6:00'."""
    text = _PAST.sub(_minutes, text)
    text = _CLOCK.sub(lambda said: f"{_hour(said[1])} {_HALF[said[2].lower()]}" if _hour(said[1]) else said[0], text)
    return _SHARP.sub(lambda said: _hour(said[1]) or said[0], text)


def _based(said: re.Match[str]) -> str:
    name = said[2] or said[3]
    base = int(name) if name.isdigit() else english_number(name)
    return said[0] if base is None else f"{said[1] or ''}_{{{int(base)}}}"


def _hour(text: str) -> str:
    """'7:00' of '7' or 'seven'; '' of what is no hour."""
    if ":" in text:
        return text
    hour = int(text) if text.isdigit() else english_number(text)
    return f"{int(hour)}:00" if hour is not None and 0 < hour < 25 else ""


def _minutes(said: re.Match[str]) -> str:
    hour = int(said[3]) if said[3].isdigit() else english_number(said[3])
    if hour is None or not 1 <= hour <= 12:
        return said[0]
    minutes = 30 if said[1].lower() == "half" else 15
    if said[2].lower() == "to":
        hour, minutes = (hour - 1) or 12, 60 - minutes
    return f"{int(hour)}:{minutes}"


_RELATIONS = (
    ("greater than or equal to", ">="),
    ("less than or equal to", "<="),
    ("not less than", ">="),
    ("not greater than", "<="),
    ("no less than", ">="),
    ("no more than", "<="),
    ("at least", ">="),
    ("at most", "<="),
    ("greater than", ">"),
    ("more than", ">"),
    ("larger than", ">"),
    ("less than", "<"),
    ("smaller than", "<"),
)
_RELATION = re.compile("|".join(words for words, _ in _RELATIONS))
_SIGN = dict(_RELATIONS)
_ALL = re.compile(
    r"^(?:the\s(?:solution(?:\sset)?|answer|domain|range)\sis\s)?(?:(?:all|any|every|the)\s)?(?:(?:real|possible)\s)?"
    r"(?:(?:numbers?|values?|reals?)\s)?(?:of\s|for\s)?(?:([a-z])\s)?"
    r"(?:(?:such\sthat|with|where|for\swhich|satisfying|that\sare|which\sare|that\sis|is|are|must\sbe)\s)?",
    re.I,
)
_SUCH = re.compile(r"[^<>\\]{0,80}\b(?:such\sthat|where|for\swhich|satisfying)\s", re.I)
_BOUND = re.compile(r"([a-z]\s?)?(<=|>=|<|>)\s?(\S{1,40})")


_ALL_REALS = re.compile(
    r"(?:all|any|every|the)\s(?:(nonzero|non-zero)\s)?(?:real\s(?:numbers?|values?)|reals?|numbers?|values?)"
    r"(?:\s(?:of\s)?[a-z])?"
)
_NONE = re.compile(
    r"(?:the\s)?empty\sset|none|无解|没有解|no\s(?:such\s)?(?:real\s)?(?:solutions?|values?(?:\sof\s[a-z])?|[a-z])(?:\sexists?)?"
)
_INFINITE = re.compile(r"(positive\s|plus\s)?(negative\s|minus\s)?infinity")
_EXCEPT = re.compile(r"(?:except(?:\sfor)?|other\sthan|not\sequal\sto|but)\s(?:[a-z]\s?=\s?)?(\S{1,40})")
_THERE_IS = re.compile(
    r"^(?:there (?:is|are)|"
    r"(?:it|(?:the|this|an?)(?: \w+){1,3}) has|the (?:answer|domain|range|solution(?: set)?) is|has) "
)


def read_set(text: str) -> str | None:
    """A set that is named in words, in signs: 'no solution', 'all real numbers', 'any nonzero real number'."""
    said = _THERE_IS.sub("", fold(text))
    if (reals := _ALL_REALS.fullmatch(said)) is not None:
        return "x \\neq 0" if reals[1] else "\\mathbb{R}"
    if (infinite := _INFINITE.fullmatch(said)) is not None:
        return "-\\infty" if infinite[2] else "\\infty"
    return "\\emptyset" if _NONE.fullmatch(said) else None


def read_inequality(text: str) -> str | None:
    """An inequality in words with signs, 'x>=3', or None: 'x is at least 3', 'all reals greater than 2'."""
    text = " ".join(text.replace("\\text{", " ").replace("}", " } ").replace("$", "").split()).rstrip(".").strip()
    if len(text) > 160:
        return None
    if (opening := _ALL.match(text)) and (hole := _EXCEPT.fullmatch(text, opening.end())):
        return f"x \\neq {hole[1]}"
    signs = _RELATION.sub(lambda said: _SIGN[said[0]], text.replace(" } ", " "))
    opening = _ALL.match(signs)
    name = opening[1] if opening and opening[1] else "x"
    rest = signs[opening.end() :] if opening else signs
    if signs == text:
        such = _SUCH.match(text)
        return text[such.end() :] if such else None
    bounds = [_BOUND.fullmatch(part.strip()) for part in re.split(r"\s(?:and|but)\s", rest)]
    if not all(bounds):
        return None
    return " and ".join(f"{bound[1] or name}{bound[2]}{bound[3]}" for bound in bounds if bound)
