"""Numbers in words: English up to trillions, Chinese numerals. Only a text that is nothing else."""

from __future__ import annotations

import re

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
UNITS_AND_TEENS = {word: float(value) for value, word in enumerate(_SMALL)}
TENS = {word: 10.0 * value for value, word in enumerate(_TENS, start=2)}
MAGNITUDES = {
    "hundred": 1e2,
    "thousand": 1e3,
    "million": 1e6,
    "billion": 1e9,
    "dozen": 12.0,
    "trillion": 1e12,
    "万": 1e4,
    "亿": 1e8,
}
_FRACTIONS = {"half": 0.5, "a half": 0.5, "one half": 0.5, "one third": 1 / 3, "a third": 1 / 3, "two thirds": 2 / 3}
_FRACTIONS |= {"quarter": 0.25, "one quarter": 0.25, "a quarter": 0.25, "three quarters": 0.75}
MAX_WORDS = 12

_CHINESE = re.compile(
    r"(负)?([零〇一二两三四五六七八九十百千万亿]{1,16})(?:点([零〇一二三四五六七八九]{1,12}))?[个只条辆人件本张元度米]?"
)
_DIGIT = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_PLACE = {"十": 10, "百": 100, "千": 1000}


def english_number(text: str) -> float | None:
    """'three', 'twenty-one', 'minus five', 'one hundred and five', 'two thirds'; None for anything else."""
    if len(text) > 120:
        return None
    words = re.split(r"[\s-]+", text.casefold().strip())
    sign = -1.0 if words[0] in ("minus", "negative") else 1.0
    words = words[1:] if sign < 0 else words
    half = 0.5 if words[-3:] == ["and", "a", "half"] and len(words) > 3 else 0.0
    words = words[:-3] if half else words
    fraction = _FRACTIONS.get(" ".join(words))
    if fraction is not None:
        return sign * fraction
    total = part = 0.0
    room = 1000.0  # what the next word must stay below: 'one two' and 'twenty eleven' are no numbers
    words = [word for word in words if word != "and"] if len(words) > 2 else words
    if not words or len(words) > MAX_WORDS or words[0] in MAGNITUDES:
        return None
    for word in words:
        if word in UNITS_AND_TEENS and UNITS_AND_TEENS[word] < room:
            part, room = part + UNITS_AND_TEENS[word], 0.0
        elif word in TENS and room >= 100:
            part, room = part + TENS[word], 10.0
        elif word == "hundred" and 0 < part < 100:
            part, room = part * 100, 100.0
        elif word in MAGNITUDES and word != "hundred" and part:
            total, part, room = total + part * MAGNITUDES[word], 0.0, 1000.0
        else:
            return None
    return sign * (total + part + half)


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
