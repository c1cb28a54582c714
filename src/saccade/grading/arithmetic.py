r"""The value of plain arithmetic in a normal form (`grading.latex`).

Knows numbers, + - * / ^ !, brackets, `\frac`, `\sqrt`, `\binom`, `\overline`, `\log_b`, sines and their kin, pi, e and
i; anything else is left to the symbolic check. Linear in the length, and no power grows beyond 40,000 bits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

MAX_LENGTH = 500
MAX_DEPTH = 40
_RATIO = re.compile(r"(-?[\d.]+):(-?[\d.]+)")


@dataclass(frozen=True, slots=True)
class Value:
    """What an expression comes to."""

    number: float
    irrational: bool = False
    """Made with a root, pi or a function, so that a decimal can only be near it."""
    exact: Fraction | None = None
    """The number itself where it is rational, so that large whole numbers and tiny ones keep their digits."""


def evaluate(expression: str) -> Value | None:
    """The value of a normal form (`normal`) that is plain real arithmetic, else None."""
    found = _number(expression)
    if found is None:
        return None
    number, irrational = found
    if isinstance(number, complex):
        return None
    try:
        return Value(float(number), irrational, number if isinstance(number, Fraction) else None)
    except OverflowError:
        return None


def evaluate_complex(expression: str) -> complex | None:
    """The value of a normal form that is plain arithmetic with the imaginary unit `i` or without it, else None."""
    found = _number(expression)
    try:
        return None if found is None else complex(found[0])
    except OverflowError:
        return None


PLAIN = re.compile(r"-?\d{1,40}(?:\.\d{1,40})?")


def _number(expression: str) -> tuple[Number, bool] | None:
    if PLAIN.fullmatch(expression):
        return Fraction(expression), False
    if len(expression) > MAX_LENGTH:
        return None
    if ":" in expression and (ratio := _RATIO.fullmatch(expression)):
        expression = f"{ratio[1]}/{ratio[2]}"
    try:
        parser = _Parser(expression)
        number = parser.sum(0)
    except (_NotPlain, ArithmeticError, ValueError):
        return None
    finite = isinstance(number, Fraction) or (math.isfinite(number.real) and math.isfinite(number.imag))
    return (number, parser.irrational) if finite and parser.position == len(parser.tokens) else None


def too_large(expression: str) -> bool:
    """Whether a normal form made of sums, products and powers alone, such as a tower of powers, exceeds every float."""
    if len(expression) > MAX_LENGTH or _GROWING.fullmatch(expression) is None:
        return False
    try:
        return math.isinf(_real(_Parser(expression).sum(0)))
    except OverflowError:
        return True
    except (_NotPlain, ArithmeticError, TypeError):
        return False


_GROWING = re.compile(r"[\d^{}()+*]+")
Number = Fraction | float | complex


class _NotPlain(Exception):
    """The expression is not plain arithmetic."""


MAX_BITS = 40_000
"""Of an exact power or factorial; a larger one is no number here."""
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "\\sin": math.sin,
    "\\cos": math.cos,
    "\\tan": math.tan,
    "\\cot": lambda x: 1 / math.tan(x),
    "\\sec": lambda x: 1 / math.cos(x),
    "\\csc": lambda x: 1 / math.sin(x),
    "\\arcsin": math.asin,
    "\\arccos": math.acos,
    "\\arctan": math.atan,
    "\\ln": math.log,
    "\\exp": math.exp,
}
_TOKEN = re.compile(
    r"\d+\.(?=\\overline)|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+|\\(?:frac|sqrt|pi|binom|overline|degree|log)(?![a-z])|"
    r"\\(?:arc)?(?:sin|cos|tan)(?![a-z])|\\(?:cot|sec|csc|ln|exp)(?![a-z])|[-+*/^(){}%!_\[\]ei]"
)
_CLOSING = {"(": ")", "{": "}"}
_FACTORS = {"*", "/", "(", "\\frac", "\\sqrt", "\\pi", "\\binom", "\\log", "e", "i", *_FUNCTIONS}


class _Parser:
    """Recursive descent over the tokens of one expression. Rational numbers stay exact."""

    def __init__(self, expression: str) -> None:
        expression = expression.replace("\\%", "%")
        self.tokens = _TOKEN.findall(expression)
        self.position = 0
        self.irrational = False
        if "".join(self.tokens) != expression or not self.tokens:
            raise _NotPlain

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.peek()
        if not token or (wanted and token != wanted):
            raise _NotPlain
        self.position += 1
        return token

    def sum(self, depth: int) -> Number:
        if depth > MAX_DEPTH:
            raise _NotPlain
        total = self.product(depth)
        while self.peek() in ("+", "-"):
            total = total + self.product(depth) if self.take() == "+" else total - self.product(depth)
        return total

    def product(self, depth: int) -> Number:
        sign = -1 if self.peek() == "-" else 1
        if self.peek() in ("+", "-"):
            self.take()
        total = sign * self.power(depth)
        while self.peek() in _FACTORS:
            if self.peek() == "/":
                self.take()
                total = total / self.power(depth)
                continue
            mixed = self.peek() == "\\frac" and self.tokens[self.position - 1].isdigit()
            if self.peek() == "*":
                self.take()
                factor = self._signed(depth)
            else:
                factor = self.power(depth)
            total = total + factor * sign if mixed else total * factor  # 1\frac{1}{2} is 1.5
        return total

    def _signed(self, depth: int) -> Number:
        """A factor behind a sign of multiplication, which may have a minus of its own."""
        if self.peek() != "-":
            return self.power(depth)
        self.take()
        return -self.power(depth)

    def power(self, depth: int) -> Number:
        base = self.atom(depth)
        while self.peek() == "!":
            self.take()
            base = _factorial(base)
        if self.peek() == "^":
            self.take()
            sign = -1 if self.peek() == "-" else 1
            if sign < 0:
                self.take()
            if depth > MAX_DEPTH:
                raise _NotPlain
            base = self._raised(base, sign * self.power(depth + 1))  # 2^3^2 is 2^9
        if self.peek() == "\\degree":
            self.take()
            self.irrational = True
            base = base * (math.pi / 180)
        if self.peek() == "%":
            raise _NotPlain  # two readings, which the grader of numbers knows
        return base

    def _raised(self, base: Number, exponent: Number) -> Number:
        if isinstance(base, complex) or isinstance(exponent, complex):
            return base**exponent if abs(exponent) < 100 else _refuse()
        if isinstance(exponent, Fraction) and exponent.denominator == 1:
            if isinstance(base, Fraction):
                size = max(base.numerator.bit_length(), base.denominator.bit_length())
                if size > 1 and size * abs(exponent) > MAX_BITS:
                    raise OverflowError
                return base ** int(exponent)
            return base ** int(exponent)
        if base < 0:
            raise _NotPlain
        value = float(base) ** float(exponent)
        near = round(value) if value < 1e12 else 0
        if (
            near
            and isinstance(base, Fraction)
            and isinstance(exponent, Fraction)
            and exponent.denominator < 9
            and abs(exponent) < 64
        ):
            power = Fraction(near) ** exponent.denominator
            if power == base**exponent.numerator:
                return Fraction(near)
        self.irrational = True
        return value

    def atom(self, depth: int) -> Number:
        token = self.take()
        if token in _CLOSING:
            inner = self.sum(depth + 1)
            self.take(_CLOSING[token])
            return inner
        if token[0].isdigit() or token[0] == ".":
            return self._digits(token)
        if token in ("\\pi", "e"):
            self.irrational = True
            return math.pi if token == "\\pi" else math.e
        if token == "i":
            return 1j
        if token == "\\frac":
            return self.group(depth) / self.group(depth)
        if token == "\\binom":
            return _choose(self.group(depth), self.group(depth))
        if token == "\\sqrt":
            return self._root(depth)
        if token == "\\log":
            self.take("_")
            base = self.group(depth) if self.peek() in _CLOSING else Fraction(self.take())
            return self._called(lambda x: math.log(x, _real(base)), depth)
        if token in _FUNCTIONS:
            inverse = ["^", "{", "-", "1", "}"]
            if self.tokens[self.position : self.position + 5] == inverse and f"\\arc{token[1:]}" in _FUNCTIONS:
                self.position += 5
                token = f"\\arc{token[1:]}"
            return self._called(_FUNCTIONS[token], depth)
        raise _NotPlain

    def _digits(self, token: str) -> Number:
        """A number, with a repeating part where one follows."""
        if "e" in token.lower() and abs(int(token.lower().partition("e")[2])) > 9_999:
            raise OverflowError
        number = Fraction(token if token[0] != "." else "0" + token)
        after = self.tokens[self.position : self.position + 4]
        if len(after) == 4 and after[0] == "\\overline" and "." in token:
            self.position += 4
            return _repeating(token, after[2])
        return number

    def _root(self, depth: int) -> Number:
        index = Fraction(2)
        if self.peek() == "[":
            self.take()
            index = Fraction(self.take())
            self.take("]")
        inside = self.group(depth)
        if not isinstance(inside, complex) and inside < 0 and index == 2:
            return 1j * _real(self._raised(-inside, 1 / index))
        if isinstance(inside, complex) or (inside < 0 and index % 2 == 0) or index == 0:
            raise _NotPlain
        sign = -1 if inside < 0 else 1
        if isinstance(inside, Fraction) and index == 2:
            top, bottom = math.isqrt(inside.numerator), math.isqrt(inside.denominator)
            if top * top == inside.numerator and bottom * bottom == inside.denominator:
                return Fraction(top, bottom)
        return sign * self._raised(abs(inside), 1 / index)

    def _called(self, function: Callable[[float], float], depth: int) -> Number:
        """A function of a bracket, or of what is multiplied without a sign behind it: `\\sin 2\\pi`."""
        raised = None
        if self.peek() == "^":
            self.take()
            raised = self.group(depth) if self.peek() in _CLOSING else Fraction(self.take())
        if self.peek() in _CLOSING:
            inside = self.atom(depth + 1)
            if self.peek() == "\\degree":
                self.take()
                inside = inside * (math.pi / 180)
        else:
            inside = self.power(depth + 1)
            while self.peek() in ("\\pi", "\\frac", "\\sqrt", "/"):
                if self.peek() == "/":
                    self.take()
                    inside = inside / self.power(depth + 1)
                else:
                    inside = inside * self.power(depth + 1)
        self.irrational = True
        value = function(_real(inside))
        return value if raised is None else self._raised(value, raised)

    def group(self, depth: int) -> Number:
        """`{...}` or `(...)` after a command."""
        if self.peek() not in _CLOSING:
            raise _NotPlain
        return self.atom(depth + 1)


def _refuse() -> Number:
    raise _NotPlain


def _real(number: Number) -> float:
    if isinstance(number, complex):
        raise _NotPlain
    return float(number)


def _factorial(number: Number) -> Number:
    if not isinstance(number, Fraction) or number.denominator != 1 or not 0 <= number <= 3_000:
        raise _NotPlain
    return Fraction(math.factorial(int(number)))


def _choose(above: Number, below: Number) -> Number:
    if not (isinstance(above, Fraction) and isinstance(below, Fraction)) or above > 3_000:
        raise _NotPlain
    if above.denominator != 1 or below.denominator != 1 or not 0 <= below <= above:
        raise _NotPlain
    return Fraction(math.comb(int(above), int(below)))


def _repeating(token: str, block: str) -> Number:
    r"""0.1\overline{6} is 1/6."""
    if not block.isdigit():
        raise _NotPlain
    places = len(token.partition(".")[2])
    return Fraction(token + "0" if token[-1] == "." else token) + Fraction(
        int(block), (10 ** len(block) - 1) * 10**places
    )
