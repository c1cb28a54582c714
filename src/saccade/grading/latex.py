r"""Plain mathematical notation: normal form of an answer, and the value of simple arithmetic in it.

Knows numbers, + - * / ^, brackets, `\frac`, `\sqrt`, `\pi` and percent; anything else is somebody else's. Linear in
the length, and no power grows beyond a float.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from saccade.parsing import plain, read_boxed

MAX_LENGTH = 500
MAX_DEPTH = 40

_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|,|!|;|:|quad|qquad)(?![A-Za-z])|\\ |\{,\}(?=\d{3})|(?<=\d),(?=\d{3}(?!\d))"
)
_DEGREES = re.compile(r"\^\s?\{?\s?\\(?:circ|degree)\s?\}?|\\degree|°|(?<=\d)\s?degrees?\b|(?<=\d)\s?度")
_SYMBOLS = {
    "**": "^",
    "\\dfrac": "\\frac",
    "\\tfrac": "\\frac",
    "\\cdot": "*",
    "\\times": "*",
    "\\div": "/",
    "π": "\\pi",
    "√": "\\sqrt",
}
_BARE_FRACTION = re.compile(r"\\frac\s?(\d)\s?(\d)(?!\d)")
_BARE_ROOT = re.compile(r"\\sqrt\s?(\d)(?!\d)")
_NAME = re.compile(
    r"^(?:\\(?:angle|triangle|overline|alpha|beta|theta)\s?\{?\s?)?(?:[A-Z]{0,4}|[a-z]?)(?:_\{?\w{1,3}\}?)?(?:\([a-z]\))?\}?\s*=\s*"
)
_FUNCTION = re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|cot|log|ln|exp)(?=[\s(_^\d\\]|[a-z](?![a-z]))")
_ROOT_CALL = re.compile(r"(?<![A-Za-z])\\?sqrt\s?\(([^()]*)\)")
_RATIO = re.compile(r"(-?[\d.]+):(-?[\d.]+)")
_PROSE = re.compile(r"^.*(?:\b(?:final answer|answer)\b\s*(?:is|:|=)|答案(?:应?[是为])?)\s*:?\s*", re.I | re.DOTALL)
_MIXED = re.compile(r"(?<![\d.])(\d+)\s(\d+)\s?/\s?(\d+)(?![\d/])")
_SPACES = re.compile(r"(?<!\d)\s+|\s+(?!\d)|\s+(?=\d{3}(?!\d))")
"""All but what stands between two numbers: '3 4' is not 34."""


def normal(text: str, named: bool = False) -> str:
    r"""The expression that an answer gives, in one spelling: no `\left`, no spaces, `\dfrac` as `\frac`, no 'x ='.

    With `named` the 'x =' stays.
    """
    boxed = read_boxed(text)
    text = plain(_PROSE.sub("", text) if boxed is None else boxed).rstrip(".").strip()
    for symbol, spelling in _SYMBOLS.items():
        text = text.replace(symbol, spelling)
    text = _DEGREES.sub("", _DROPPED.sub("", text))
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", _BARE_FRACTION.sub(r"\\frac{\1}{\2}", text))
    if "sqrt" in text:
        text = _ROOT_CALL.sub(r"\\sqrt{\1}", text)
    text = _FUNCTION.sub(r"\\\1", text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    return _SPACES.sub("", text if named else _NAME.sub("", text))


@dataclass(frozen=True, slots=True)
class Value:
    """What an expression comes to."""

    number: float
    irrational: bool = False
    """Made with a root or pi, so that a decimal can only be near it."""


def evaluate(expression: str) -> Value | None:
    """The value of a normal form (`normal`) that is plain arithmetic, else None."""
    if len(expression) > MAX_LENGTH:
        return None
    if ":" in expression and (ratio := _RATIO.fullmatch(expression)):
        expression = f"{ratio[1]}/{ratio[2]}"
    try:
        parser = _Parser(expression)
        number = parser.sum(0)
    except (_NotPlain, ArithmeticError):
        return None
    if parser.position != len(parser.tokens) or not math.isfinite(number):
        return None
    return Value(number, parser.irrational)


def too_large(expression: str) -> bool:
    """Whether a normal form made of sums, products and powers alone, such as a tower of powers, exceeds every float."""
    if len(expression) > MAX_LENGTH or _GROWING.fullmatch(expression) is None:
        return False
    try:
        return math.isinf(_Parser(expression).sum(0))
    except OverflowError:
        return True
    except (_NotPlain, ArithmeticError):
        return False


_GROWING = re.compile(r"[\d^{}()+*]+")


class _NotPlain(Exception):
    """The expression is not plain arithmetic."""


_TOKEN = re.compile(r"\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+|\\frac|\\sqrt|\\pi|[-+*/^(){}%]")
_CLOSING = {"(": ")", "{": "}"}


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, expression: str) -> None:
        self.tokens = _TOKEN.findall(expression.replace("\\%", "%"))
        self.position = 0
        self.irrational = False
        if "".join(self.tokens) != expression.replace("\\%", "%") or not self.tokens:
            raise _NotPlain

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.peek()
        if not token or (wanted and token != wanted):
            raise _NotPlain
        self.position += 1
        return token

    def sum(self, depth: int) -> float:
        if depth > MAX_DEPTH:
            raise _NotPlain
        total = self.product(depth)
        while self.peek() in ("+", "-"):
            total += self.product(depth) if self.take() == "+" else -self.product(depth)
        return total

    def product(self, depth: int) -> float:
        sign = -1.0 if self.peek() == "-" else 1.0
        if self.peek() in ("+", "-"):
            self.take()
        total = sign * self.power(depth)
        while self.peek() in ("*", "/", "(", "\\frac", "\\sqrt", "\\pi"):
            if self.peek() == "/":
                self.take()
                total /= self.power(depth)
            else:
                mixed = self.peek() == "\\frac" and self.tokens[self.position - 1].isdigit()
                if self.peek() == "*":
                    self.take()
                factor = self.power(depth)
                total = total + math.copysign(factor, total) if mixed else total * factor  # 1\frac{1}{2} is 1.5
        return total

    def power(self, depth: int) -> float:
        base = self.atom(depth)
        if self.peek() == "^":
            self.take()
            sign = -1.0 if self.peek() == "-" else 1.0
            if sign < 0:
                self.take()
            if depth > MAX_DEPTH:
                raise _NotPlain
            exponent = sign * float(self.power(depth + 1))  # 2^3^2 is 2^9
            if base < 0 and not exponent.is_integer():
                raise _NotPlain
            self.irrational |= not exponent.is_integer()
            base = float(base) ** exponent
        if self.peek() == "%":
            raise _NotPlain  # two readings, which the grader of numbers knows
        return base

    def atom(self, depth: int) -> float:
        token = self.take()
        if token in _CLOSING:
            inner = self.sum(depth + 1)
            self.take(_CLOSING[token])
            return inner
        if token == "\\frac":
            return self.group(depth) / self.group(depth)
        if token == "\\sqrt":
            root = self.group(depth)
            if root < 0:
                raise _NotPlain
            self.irrational |= not math.sqrt(root).is_integer()
            return math.sqrt(root)
        if token == "\\pi":
            self.irrational = True
            return math.pi
        if token[0].isdigit() or token[0] == ".":
            return float(token)
        raise _NotPlain

    def group(self, depth: int) -> float:
        """`{...}` or `(...)` after a command."""
        if self.peek() not in _CLOSING:
            raise _NotPlain
        return self.atom(depth + 1)
