"""Reading short answers: a letter, a number, yes or no. An answer that hedges reads as None."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJ"
LONGEST = 10_000
"""Characters that a reader looks at, from the end: what is answered is said last."""
_SUPERSCRIPTS = str.maketrans({"²": "^2", "³": "^3", "−": "-", "–": "-", "×": "*", "÷": "/", "⁄": "/"})
_WRAPPERS = re.compile(r"\\(?:text|mathrm|mathbf|mathit|textbf|boxed|operatorname)\s?\{([^{}]*)\}")
_BOLD = re.compile(r"(?<![\w)}*])\*\*([^*\n]+)\*\*(?![\w({*])")
_CUE = re.compile(
    r"(?:answer|option|choice|result)(?:\s+is)?\s*[:=]?\s*|\bis\s*:?\s*|(?:答案|故选|选)(?:是|为)?\s*:?\s*", re.I
)


def plain(text: str) -> str:
    """Text without markup that changes no meaning: full-width forms, dollar signs, stars, \\text{..}, outer spaces."""
    text = unicodedata.normalize("NFKC", text.translate(_SUPERSCRIPTS)).translate(_SUPERSCRIPTS)
    for _ in range(3):
        text = _WRAPPERS.sub(r"\1", text)
    return re.sub(r"\$|\\[()\[\]]", "", _BOLD.sub(r"\1", text)).strip()


# -------------------------------------------------------------------------------------------------------------- choice

_HEDGE = re.compile(r"\s*(?:or|and|/|&|,|\bnor\b)\s*\(?([A-Za-z])\)?(?![A-Za-z])", re.I)
_ALONE = re.compile(r"\(?([A-Za-z])\)?\s*[.:,;!)]?")
_LEADING = re.compile(r"\(?([A-Za-z])\s*[).:]\s*(\S.*)", re.DOTALL)
_AFTER_CUE = re.compile(r"\(?(?:([A-Z])(?![A-Za-z])|([a-z])(?=\s*(?:[).,;:!]|$)))\)?")


def read_choice(text: str, letters: Sequence[str] = LETTERS, options: Sequence[str] = ()) -> str | None:
    """The letter that an answer picks, upper case, or None when it picks none or more than one.

    Reads 'B', 'b', '(B)', 'B.', 'B) foo', 'The answer is B', and the text of exactly one option. With options given,
    'B) foo' counts only if foo is not the text of another option.
    """
    text = plain(text[-LONGEST:])
    allowed = {letter.upper() for letter in letters}
    readings = (_as_letter(text, options), _as_option(text, letters, options), _after_cue(text))
    return next((picked for picked in readings if picked in allowed), None)


def _as_letter(text: str, options: Sequence[str]) -> str | None:
    """'B' and its kin as the whole text, or in front of the option's text."""
    if alone := _ALONE.fullmatch(text):
        return alone[1].upper()
    leading = _LEADING.fullmatch(text)
    if leading is None or _HEDGE.match(text, leading.end(1)):
        return None
    letter, rest = leading[1].upper(), _fold(leading[2])
    folded = [_fold(option) for option in options]
    own = ord(letter) - ord("A")
    conflicts = rest in folded and not (own < len(folded) and folded[own] == rest)
    listed = re.search(r"(?:^|[\s,;(])[A-Z]\s*[).:](?=\s)", leading[2]) is not None  # 'A) red B) blue' names them all
    return None if conflicts or listed else letter


def _as_option(text: str, letters: Sequence[str], options: Sequence[str]) -> str | None:
    """The letter of the one option whose text this is."""
    wanted = _fold(text)
    found = [letter for letter, option in zip(letters, options, strict=False) if _fold(option) == wanted]
    return found[0].upper() if wanted and len(found) == 1 else None


def _after_cue(text: str) -> str | None:
    """The letter after the last 'answer is' or the like that is followed by one."""
    picked = None
    for cue in _CUE.finditer(text):
        letter = _AFTER_CUE.match(text, cue.end())
        if letter is not None:
            picked = None if _HEDGE.match(text, letter.end()) else (letter[1] or letter[2]).upper()
    return picked


def _fold(text: str) -> str:
    return " ".join(plain(text).casefold().split()).strip(" .")


# -------------------------------------------------------------------------------------------------------------- number

_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
WORD_NUMBERS = {word: float(value) for value, word in enumerate(_WORDS)}
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?<![A-Za-z_0-9.^])(-\s?|\+)?(?:\\[dt]?frac\s?\{{\s?({_DIGITS})\s?\}}\s?\{{\s?({_DIGITS})\s?\}}"
    rf"|({_DIGITS})(?:\s?[eE]([-+]?\d+)(?![\w.]))?(?:\s?/\s?({_DIGITS})(?![\d/]))?)"
)
_SPACED = re.compile(r"(?<=\d)(?:\\[!,;: ]|\{,\}|[ '\u2009\u202f])(?=\d{3}(?!\d))")
_FIGURE = re.compile(r"(?:=|\banswer\b[^-+0-9.\\]{0,20}|\bis\b\s*:?|答案(?:是|为)?\s*:?)\s*(?=[-+.\d\\])", re.I)


def read_number(text: str) -> float | None:
    """The number that an answer gives, or None when it gives none or several different ones.

    Reads thousands separators, decimals, exponents, fractions (3/4, \\frac{3}{4}), units, degrees, a percent sign (50%
    reads as 50), number words up to twenty when they stand alone, and the number after 'answer is' or the last '='.
    """
    text = _SPACED.sub("", plain(text[-LONGEST:]))
    if (word := text.casefold().rstrip(".! ")) in WORD_NUMBERS:
        return WORD_NUMBERS[word]
    cues = [m.end() for m in _FIGURE.finditer(text)]
    found = list(_NUMBER.finditer(text, cues[-1] if cues else 0))
    values = {_value(m) for m in found}
    return values.pop() if len(values) == 1 else None


def _value(match: re.Match[str]) -> float | None:
    sign, top, bottom, whole, exponent, divisor = match.groups()
    try:
        number = float((top or whole).replace(",", "") + (f"e{exponent}" if exponent else ""))
        number /= float((bottom or divisor or "1").replace(",", ""))
    except (ZeroDivisionError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return -number if sign and sign.startswith("-") and number else number


# -------------------------------------------------------------------------------------------------------------- yes, no

_YES = {"yes", "true", "yeah", "yep", "是", "对", "是的"}
_NO = {"no", "false", "nope", "否", "不", "不是", "错"}
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|不是|是的|[是对否不错]")


def read_yes_no(text: str) -> bool | None:
    """True for yes, False for no, None for neither or both; whole words only, so 'know' and 'not' say nothing.

    'Yes, there is no cat' is yes: an opening word that stands alone decides. 'yes or no' is None.
    """
    text = plain(text[-LONGEST:])
    opening = re.match(r"\W*([A-Za-z]+|不是|是的|[是对否不错])\s*(?:[,.;:!,。;:!-]|\n|$)", text)
    if opening and (said := _polarity(opening[1])) is not None:
        return said
    said_all = {_polarity(word) for word in _WORD.findall(text)} - {None}
    return said_all.pop() if len(said_all) == 1 else None


def _polarity(word: str) -> bool | None:
    word = word.casefold()
    return True if word in _YES else False if word in _NO else None
