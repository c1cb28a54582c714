r"""Text without the markup that changes no meaning: full-width forms, dollar signs, stars, `\text{..}`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

LONGEST = 10_000
"""Characters that a reader of short answers looks at, from the end: what is answered is said last."""

LONGEST_RUN = 30
"""Combining marks in a row that are kept."""

_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "‐": "-", "‑": "-", "×": "*", "÷": "/", "⁄": "/"}
    | {"∶": ":", "∕": "/", "∗": "*", "⋅": "*", "∙": "*"}
    | dict.fromkeys("‘’‚′ʼ", "'")
    | dict.fromkeys("“”„«»「」『』", '"')
)
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad]")
_RAISED = re.compile(r"[⁰¹²³⁴-⁹⁻⁺]+")
_LOWERED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_MIXED = re.compile(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])")
_WRAPPERS = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|sl|normal)?|math(?:rm|bf|it|sf|tt)|mbox|hbox|f?boxed|fbox|operatorname|boldsymbol|bm|"
    r"emph|underline|uline)"
    r"\s?\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_BOLD = re.compile(
    r"(?<![\w)}*])\*\*((?:[^*\n]|\*(?!\*))+)\*\*(?![\w({*])|(?<![\w)}*])\*([^*\s](?:[^*\n]*[^*\s])?)\*(?![\w({*])"
)
_UNDERSCORED = re.compile(r"(?<![\w\\)}])(__|_)(?=[^\s_{])([^_{}\n]{1,200})(?<=\S)\1(?![\w({])")
_COLOR = re.compile(r"\\(?:text)?color(?:box)?\s?(?:\[[A-Za-z]{1,9}\])?\{[^{}]{1,30}\}")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{(?:aligned|align|equation|gather|gathered|split)\*?\}")
_MATH_MARKS = re.compile(r"\\?\$|\\[()\[\]]")
_TAGS = re.compile(r"<(b|i|u|em|strong|code|span|p)>([^<]*)</\1>|<\|(?:begin|end)_of_box\|>", re.I)


_LONG_GAP = re.compile(r"(\s{16})\s+")
"""A run of spaces beyond what anybody writes, so that no pattern has to cross it again and again."""


def plain(text: str) -> str:
    """`text` in one spelling of its characters, without markup and outer spaces. Linear in its length."""
    text = _LONG_GAP.sub(r"\1", unmarked(text))
    if not text.isascii():
        text = _RAISED.sub(_power, _MIXED.sub(" ", text)).translate(_SIGNS)
        text = normalized(text).translate(_SIGNS)
    if "\\" in text:
        for _ in range(3):
            text = _WRAPPERS.sub(r"\1", text)
    return _MATH_MARKS.sub("", text).strip()


def normalized(text: str) -> str:
    """`text` in the form NFKC. Runs of more than LONGEST_RUN combining marks are cut as in UAX 15's stream-safe format:
    Python sorts them by insertion, which takes minutes for a megabyte."""
    if len(text) > LONGEST_RUN and not text.isascii():
        text = _mark_run().sub(r"\1", text)
    return unicodedata.normalize("NFKC", text)


@cache
def _mark_run() -> re.Pattern[str]:
    """LONGEST_RUN characters that are, or decompose into, combining marks of a class, and those behind them."""
    marks = "".join(c for c in map(chr, range(0x300, 0x1F000)) if unicodedata.combining(_decomposed(c)[0]))
    ranges = "".join(f"{run[0]}-{run[-1]}" for run in _runs(marks))
    return re.compile(f"([{ranges}]{{{LONGEST_RUN}}})[{ranges}]+")


def _decomposed(char: str) -> str:
    return unicodedata.normalize("NFKD", char) if unicodedata.decomposition(char) else char


def _runs(chars: str) -> Iterator[str]:
    """Neighboring code points together."""
    start = 0
    for place in range(1, len(chars) + 1):
        if place == len(chars) or ord(chars[place]) != ord(chars[place - 1]) + 1:
            yield chars[start:place]
            start = place


def unmarked(text: str) -> str:
    """`text` without bold, code ticks, HTML emphasis and characters that nobody sees; formulas stay as they are."""
    if not text.isascii():
        text = _INVISIBLE.sub("", text)
    if "\\begin{" in text and _ENVIRONMENT.search(text):
        text = _ENVIRONMENT.sub("", text).replace("&", "")
    if "\\begin{cases}" in text and "&" not in text:
        text = text.replace("\\begin{cases}", "").replace("\\end{cases}", "").replace("\\\\", ",")
    if "*" in text:
        text = _BOLD.sub(lambda bold: bold[1] or bold[2], text)
    if "_" in text:
        text = _UNDERSCORED.sub(r"\2", text)
    if "color" in text:
        text = _COLOR.sub("", text)
    if "<" in text:
        text = _TAGS.sub(lambda tag: tag[2] or "", text)
    if "`" in text and "`" not in (inside := text.strip().strip("`")):
        text = inside
    return text


def fold(text: str) -> str:
    """`plain` text as options and words are compared: case folded, white space collapsed, no outer dots."""
    return " ".join(plain(text).casefold().split()).strip(" .")


def _power(raised: re.Match[str]) -> str:
    digits = raised[0].translate(_LOWERED)
    return f"^{digits}" if len(digits) == 1 else f"^{{{digits}}}"
