r"""The normal form of an answer in plain mathematical notation: one spelling of what means the same."""

from __future__ import annotations

import re

from saccade.grading.arithmetic import PLAIN, Value, evaluate, too_large
from saccade.parsing import plain, read_boxed

__all__ = ["Value", "evaluate", "normal", "too_large", "without_thousands"]

_DROPPED = re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits|quad|qquad)(?![A-Za-z])|\\[,!;: ]|~")
_EXPLICIT = re.compile(r"(?<=\d)(?:\{,\}|,\s?\\!|\\[!,;: ]|[ \u2009\u202f'])\s?(?=\d{3}(?!\d))")
"""Separators of thousands that are no commas of a list."""
_DEGREES = re.compile(r"\^\s?\{?\s?\\(?:circ|degree)\s?\}?|\\degree|°|(?<=\d)\s?degrees?\b|(?<=\d)\s?度")
_GREEK = "alpha beta gamma delta theta lambda mu rho sigma tau phi omega Delta"
_SYMBOLS = {
    "**": "^",
    "\\dfrac": "\\frac",
    "\\tfrac": "\\frac",
    "\\cfrac": "\\frac",
    "\\dbinom": "\\binom",
    "\\tbinom": "\\binom",
    "\\cdot": "*",
    "\\times": "*",
    "\\div": "/",
    "·": "*",
    "π": "\\pi",
    **{greek: f"\\{name} " for greek, name in zip("αβγδθλμρστφωΔ", _GREEK.split(), strict=True)},
    "∥": "\\parallel ",
    "⊥": "\\perp ",
    "≅": "\\cong ",
    "∠": "\\angle ",
    "△": "\\triangle ",
    "∞": "\\infty",
    "∅": "\\emptyset",
    "\\varnothing": "\\emptyset",
    "≤": "\\le",
    "≥": "\\ge",
    "≠": "\\neq",
    "±": "\\pm",
    "+/-": "\\pm",
    "\\lvert": "|",
    "\\rvert": "|",
    "\\vert": "|",
    "\\lbrack": "[",
    "\\rbrack": "]",
    "\\lg": "\\log_{10}",
    "\\langle": "(",
    "\\rangle": ")",
}
_SYMBOL = re.compile("|".join(re.escape(s) + ("(?![A-Za-z])" if s[-1].isalpha() else "") for s in _SYMBOLS))
_UNICODE_ROOT = re.compile(r"([√∛∜])\s?(\d+(?:\.\d+)?|[a-z]|\([^()]*\))?")
_ROOTS = {"√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]"}
_ARGUMENT = r"\{[^{}]*\}|\d"
_BARE = re.compile(rf"\\(frac|binom)\s?({_ARGUMENT})\s?({_ARGUMENT})")
_BARE_ROOT = re.compile(r"\\sqrt\s?(\[\d{1,2}\])?\s?(\d)(?!\d)")
_NAME = re.compile(
    r"^(?:m?\s?\\(?:angle|triangle|overline|alpha|beta|theta|lambda|mu|sigma|omega|phi|Delta)\s?\{?\s?)?"
    r"(?:[A-Z]{0,4}|[a-z]?|[A-Z]?[a-z]{3,12}|\([a-zA-Z](?:\s?,\s?[a-zA-Z]){1,4}\s?\)|\[[A-Z]{3,5}\])(?:_\{?\w{1,3}\}?|\^\{-1\})?"
    r"'?(?:\s?\([-\w]{1,4}\))?\}?\s*=\s*(?!=)|^(?:\\(?:sin|cos|tan)\s?\\?[a-zA-Z]{1,6}|\\frac\s?\{d[a-z]\}\s?\{d[a-z]\}|d[a-z]/d[a-z])\s?=\s*"
)
_TIMES_TEN = re.compile(r"(?<=\d)\s?[xX]\s?(?=10\s?\^)")
_DOTTED = re.compile(r"(?<=[.\d])\\dot\s?\{?(\d)\}?(?:(\d{0,9})\\dot\s?\{?(\d)\}?)?")
r"""0.1\dot{6}, and a dot over the first and the last digit that is repeated."""
_SEGMENT = re.compile(r"\\overline\s?\{([A-Z]{2})\}")
_OVER = re.compile(r"\{([^{}\\]*)\\over(?![a-z])([^{}]*)\}")
_POINT = re.compile(r"^[A-Z]'?\s?(?=\([^()]*,[^()]*\)$)")
_FUNCTION = re.compile(
    r"(?<![\\A-Za-z])((?:arc)?(?:sin|cos|tan)|cot|sec|csc|log|ln|exp|pi|infinity|inf|oo|binom)(?=[\s(_^\d\\}/*),]|[a-z](?![a-z])|$)"
)
_CALL = re.compile(r"(?<![A-Za-z])\\?(sqrt|cbrt|abs)\s?\(([^()]*)\)")
_CALLED = {"sqrt": "\\sqrt{{{}}}", "cbrt": "\\sqrt[3]{{{}}}", "abs": "|{}|"}
_CHOSEN = re.compile(
    r"(?:\{\})?[_^]\{?(\d{1,4})\}?\s?C_\{?(\d{1,4})\}?|(?<![A-Za-z])C_\{?(\d{1,4})\}?\s?\^\{?(\d{1,4})\}?(?![\w(])"
)
"""Binomials as '_{5}C_{2}' and 'C_5^2'."""
_ANGLED = re.compile(r"^<([^<>=,]+(?:,[^<>=,]+)+)>$")
_PROSE = re.compile(r"^.*(?:\b(?:final answer|answer)\b\s*(?:is|:|=)|答案(?:应?[是为])?)\s*(?::\s*)?", re.I | re.DOTALL)
_MIXED = re.compile(r"(?<![\d.])(\d+)\s(\d+)\s?/\s?(\d+)(?![\d/])")
_LOG_BASE = re.compile(r"\\log\s?_\s?(\d)")
_LOG_E = re.compile(r"\\log\s?_\s?(?:e|\{\s?e\s?\})(?![a-z])")
_NAMED_LAST = re.compile(r"^(?=[^=<>]*?[^=<>a-zA-Z\s])([^=<>]*[^=<>\s])\s*=\s*([a-zA-Z])$")
"""'5 = x'."""
_UNCOMMANDED = re.compile(r"(?<![\\A-Za-z])(?=[dt]?frac\{|sqrt[{\[])")
_COEFFICIENT = re.compile(r"(?<![\w.^/}\)])(\d{1,9})/(\d{1,9})\s{1,4}(?=[a-z]\b|\\pi|[a-z]\^)")
"""'4/3 r'."""
_POWER_GAP = re.compile(r"(\^(?:\d|\{\d+\}))\s+(?=\d)")
_FACTOR = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc|ln|log|exp))\s+([a-z])(?=\s*\*)")
"""A function of one letter in front of a sign of multiplication."""
_SPACES = re.compile(
    r"(\\(?:pi|alpha|beta|gamma|delta|theta|lambda|mu|rho|sigma|tau|phi|omega))\s+(?=[A-Za-z])|"
    r"(\\(?:sin|cos|tan|cot|sec|csc|ln|log|exp))\s+(?=[A-Za-z])|(?<!\d)\s+|\s+(?!\d)"
)
"""All but what is between two numbers: '3 4' is not 34."""
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")


def normal(text: str, named: bool = False, listed: bool = False) -> str:
    r"""The expression that an answer gives, in one spelling: no `\left`, no spaces, `\dfrac` as `\frac`, no 'x ='.

    With `named` the 'x =' remains. Commas between digits separate thousands outside of brackets and lists; with
    `listed` they separate the parts of a list.
    """
    boxed = read_boxed(text)
    text = plain(_PROSE.sub("", text) if boxed is None else boxed).rstrip(".").strip()
    if PLAIN.fullmatch(text):
        return text
    text = _SYMBOL.sub(lambda symbol: _SYMBOLS[symbol[0]], text)
    text = _TIMES_TEN.sub("*", text)
    text = _DROPPED.sub("", _EXPLICIT.sub("", text))
    if "\\over" in text:
        text = _OVER.sub(r"\\frac{\1}{\2}", text)
    if "\\dot" in text:
        text = _DOTTED.sub(r"\\overline{\1\2\3}", text)
    if "\\overline" in text:
        text = _SEGMENT.sub(r"\1", text)
    if "," in text:
        text = without_thousands(text, listed)
    if not text.isascii():
        text = _UNICODE_ROOT.sub(_rooted, text)
    if "{" in text:
        text = _UNCOMMANDED.sub(r"\\", text)
    text = _COEFFICIENT.sub(r"\\frac{\1}{\2}", text)
    text = _BARE_ROOT.sub(r"\\sqrt\1{\2}", _BARE.sub(_braced, text))
    text = _CALL.sub(lambda call: _CALLED[call[1]].format(call[2]), text)
    text = _ANGLED.sub(
        r"(\1)", _CHOSEN.sub(lambda found: f"\\binom{{{found[1] or found[3]}}}{{{found[2] or found[4]}}}", text)
    )
    text = _FUNCTION.sub(lambda name: "\\infty" if name[0] in ("infinity", "inf", "oo") else "\\" + name[0], text)
    text = _DEGREES.sub("\\\\degree " if _TRIGONOMETRIC.search(text) else "", text)
    text = _POWER_GAP.sub(r"\1*", _LOG_E.sub(r"\\ln ", _LOG_BASE.sub(r"\\log_{\1}", text)))
    text = _NAMED_LAST.sub(r"\2=\1", text) if "=" in text else text
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _FACTOR.sub(r"\1(\2)", text) if "*" in text else text
    return _SPACES.sub(_closed, text if named else _POINT.sub("", _NAME.sub("", text)))


def _closed(space: re.Match[str]) -> str:
    r"""Nothing for a space, but what keeps '\pi r' and '\sin x' apart."""
    return f"{space[1]}*" if space[1] else f"{space[2]} " if space[2] else ""


def _rooted(root: re.Match[str]) -> str:
    return _ROOTS[root[1]] + (f"{{{root[2].strip('()')}}}" if root[2] else "")


def _braced(command: re.Match[str]) -> str:
    above, below = (part if part[0] == "{" else f"{{{part}}}" for part in (command[2], command[3]))
    return f"\\{command[1]}{above}{below}"


_THOUSANDS = re.compile(r"(?<![\d,.])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
_BRACKETS = re.compile(r"\\?[(\[{)\]}]|,")


def without_thousands(text: str, listed: bool = False) -> str:
    """`text` without commas that separate thousands.

    In brackets, and in a list with other commas, '1,200' is two parts, unless ', ' is what separates the parts there.
    """
    matches = list(_THOUSANDS.finditer(text))
    if not matches:
        return text
    spaced, other, group_of = _groups(text, {at for m in matches for at in range(m.start(), m.end())})
    pieces, end = [], 0
    for match in matches:
        group = group_of[match.start() + match[0].index(",")]
        if group in spaced or not (group or group in other or listed):
            pieces += [text[end : match.start()], match[0].replace(",", "")]
            end = match.end()
    return "".join(pieces) + text[end:]


def _groups(text: str, grouped: set[int]) -> tuple[set[int], set[int], dict[int, int]]:
    """Groups of brackets with a ', ', groups with a comma outside `grouped`, and the group of each comma.

    A group is named by where it begins; 0 is outside all list brackets, as the arguments of commands are.
    """
    spaced, other, group_of = set[int](), set[int](), dict[int, int]()
    inside = [0]
    for mark in _BRACKETS.finditer(text):
        if mark[0] == ",":
            group_of[mark.start()] = inside[-1]
            if text[mark.end() : mark.end() + 1].isspace():
                spaced.add(inside[-1])
            elif mark.start() not in grouped:
                other.add(inside[-1])
        elif mark[0][-1] in "([{":
            argument = (
                mark[0] == "{"
                and mark.start() > 0
                and (text[mark.start() - 1].isalpha() or text[mark.start() - 1] in "}^_")
            )
            inside.append(0 if argument else mark.end())
        elif len(inside) > 1:
            inside.pop()
    return spaced, other, group_of
