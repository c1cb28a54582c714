"""Numbers in words: English up to trillions, Chinese numerals. Only a text that is nothing else."""

from __future__ import annotations

import re
from fractions import Fraction

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
UNITS_AND_TEENS = {word: value for value, word in enumerate(_SMALL)}
TENS = {word: 10 * value for value, word in enumerate(_TENS, start=2)}
MAGNITUDES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "dozen": 12,
    "lakh": 10**5,
    "crore": 10**7,
    "trillion": 10**12,
    "万": 10**4,
    "亿": 10**8,
}
_ORDINALS = "half third quarter fourth fifth sixth seventh eighth ninth tenth eleventh twelfth hundredth thousandth"
_PARTS = dict(zip(_ORDINALS.split(), (2, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 100, 1000), strict=True))
DENOMINATORS = {"halves": 2, **{f"{name}s": part for name, part in _PARTS.items()}, **_PARTS}
"""Words for parts of a whole, the plurals first."""
MAX_WORDS = 12

_CHINESE = re.compile(
    r"(负)?([零〇一二两三四五六七八九十百千万亿]{1,16})(?:点([零〇一二三四五六七八九]{1,12}))?[个只条辆人件本张元度米]?"
)
_DIGIT = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_PLACE = {"十": 10, "百": 100, "千": 1000}


def english_number(text: str) -> Fraction | None:
    """'three', 'twenty-one', 'minus five', 'one hundred and five', 'a hundred', 'two thirds', 'three and a half'; None
    for anything else, an ordinal such as 'third' too."""
    if len(text) > 120:
        return None
    words = re.split(r"[\s-]+", text.casefold().strip())
    sign = -1 if words[0] in ("minus", "negative") else 1
    words = words[1:] if sign < 0 else words
    part = DENOMINATORS.get(words[-1]) if words else None
    if part is None:
        whole = _whole(words)
        return None if whole is None else sign * whole
    cut = len(words) - 1 - words[::-1].index("and") if "and" in words else 0
    whole = _whole(words[:cut]) if cut else Fraction(0)
    count = words[cut + (cut > 0) : -1]
    parts = Fraction(1) if count in (["a"], ["an"]) or words in (["half"], ["quarter"]) else _whole(count)
    if whole is None or parts is None or (parts == 1) != (words[-1] in _PARTS):
        return None
    return sign * (whole + parts / part)


_ORDINARY = re.compile(
    rf"(?!(?:first|second|squared|cubed|factorial|times|plus|minus|percentage points?)\b)"
    rf"(?:(?!(?:or|and|not|but|than|no|"
    rf"{'|'.join([*UNITS_AND_TEENS, *TENS, *MAGNITUDES, *DENOMINATORS])})\b)[a-z'-]+(?:[\s,.]+|$))*",
    re.I,
)


def leading_number(text: str) -> tuple[Fraction, str] | None:
    """The number in words that a text begins with, and what follows: words without another number; else None."""
    words = text.split()
    for count in range(min(len(words), MAX_WORDS), 0, -1):
        if (number := english_number(" ".join(words[:count]))) is not None:
            rest = " ".join(words[count:])
            part_of = rest.startswith("of ") and number.denominator == 1  # 'one of them'
            return (number, rest) if _ORDINARY.fullmatch(rest) and not part_of else None
    return None


def _whole(words: list[str]) -> Fraction | None:
    """'twenty one', 'a hundred and five'."""
    total = part = 0
    room = 1000  # what the next word must stay below: 'one two' and 'twenty eleven' are no numbers
    words = [word for word in words if word != "and"] if len(words) > 2 else words
    if len(words) > 1 and words[0] == "a" and words[1] in MAGNITUDES:
        words = ["one", *words[1:]]
    if not words or len(words) > MAX_WORDS or words[0] in MAGNITUDES:
        return None
    for word in words:
        if word in UNITS_AND_TEENS and UNITS_AND_TEENS[word] < room:
            part, room = part + UNITS_AND_TEENS[word], 0
        elif word in TENS and room >= 100:
            part, room = part + TENS[word], 10
        elif word == "hundred" and 0 < part < 100:
            part, room = part * 100, 100
        elif word in MAGNITUDES and word != "hundred" and part:
            total, part, room = total + part * MAGNITUDES[word], 0, 1000
        else:
            return None
    return Fraction(total + part)


def chinese_number(text: str) -> float | None:
    """'十二', '一百二十', '三点五', '负三', with at most one measure word; None for anything else."""
    match = _CHINESE.fullmatch(text.strip())
    if match is None:
        return None
    total = section = digit = 0
    for char in match[2]:
        if char in _DIGIT:
            digit = digit * 10 + _DIGIT[char] if char not in "零〇" and digit else _DIGIT[char]
        elif char in _PLACE:
            section, digit = section + (digit or 1) * _PLACE[char], 0
        else:
            total, section, digit = (total + section + digit) * (10**4 if char == "万" else 10**8), 0, 0
    value = float(total + section + digit)
    if match[3]:
        value += float("0." + "".join(str(_DIGIT[c]) for c in match[3]))
    return -value if match[1] else value
