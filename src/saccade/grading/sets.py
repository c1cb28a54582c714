r"""Answers of several parts: sets, lists, tuples, intervals and inequalities, compared without algebra.

Works on the normal form of `grading.latex`. What it cannot decide is left to the symbolic check.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from saccade.grading.arithmetic import evaluate

MAX_PARTS = 64
"""More parts than this are left alone, since every part is held against every other."""

_SYMBOLS = (
    *(("\\leqslant", "<="), ("\\geqslant", ">="), ("\\leq", "<="), ("\\geq", ">="), ("\\le", "<="), ("\\ge", ">=")),
    *(("\\lt", "<"), ("\\gt", ">"), ("\u2264", "<="), ("\u2265", ">="), ("\u221e", "\\infty"), ("\u222a", "\\cup")),
    *(("\\lbrace", "\\{"), ("\\rbrace", "\\}"), ("\u2208", "\\in"), ("+\\infty", "\\infty"), ("\u00b1", "\\pm")),
    *(("\\emptyset", "\\{\\}"), ("\\mathbb{R}", "R"), ("\u211d", "R"), ("allrealnumbers", "R"), ("emptyset", "\\{\\}")),
    *(("noreal", "no"), ("nosolutions", "\\{\\}"), ("nosolution", "\\{\\}"), ("\n", ",")),
)
_UNION = re.compile(r"\\cup|\\lor|(?<=[)\]])U(?=[(\[])|(?<=[\d)}\]a-z])or(?=[-\d({\[\\a-z])")
_AND = re.compile(
    r",(?:and|or)(?=[-\d({\[\\a-zA-Z])|(?<=\di)(?:and|or)(?=[-\d(])|"
    r"(?<=[\d)}\]])(?:and|or)(?=[-\d({\[\\a-zA-Z])|(?<=(?<![A-Za-z])[A-Z])and(?=[A-Z](?![A-Za-z]))|\u6216|\u548c|\u3001"
)
_BOUNDS = re.compile(
    r"([\[(\]])([^,;\[\]()]+(?:\([^,()]*\)[^,;\[\]()]*)?)[,;]([^,;\[\]()]+(?:\([^,()]*\)[^,;\[\]()]*)?)([\])\[])"
)
_BOTH = re.compile(r"\\cap|\\land|\\wedge|(?<=[\d)}\]a-z])and(?=[-\d({\[\\a-z])|,(?=[a-z][<>]|-?[\d.]+[<>])")
_MEMBER = re.compile(r"^[a-z]\\in(?![a-z])")
_CHAIN = re.compile(r"([^<>=]+)(<=?|>=?)([a-zA-Z])(<=?|>=?)([^<>=]+)")
_SINGLE = re.compile(r"([^<>=]+)(<=?|>=?)([^<>=]+)")
_NAME = re.compile(r"^[A-Za-z](?:_\{?\d\}?)?=")


_GAP = re.compile(r"(?<=\d) (?=\d)")
_BUILDER = re.compile(r"^\\?\{[a-z](?:\\in(?:R|\\mathbb\{R\}))?(?:\||:|\\mid)([^{}|]*?)\\?\}$")
_POINT = re.compile(r"\(([a-zA-Z](?:,[a-zA-Z])+)\)=\(([^()]*)\)")


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`, either of them in or out; an infinite end is always out."""

    low: float
    low_in: bool
    high: float
    high_in: bool


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an answer, as written."""

    kind: Literal["set", "list", "tuple"]
    """A set stands in braces; a list has no brackets, and its order does not count; a tuple has brackets and order."""
    items: tuple[str, ...]
    names: tuple[str, ...] = ()
    """Of 'x=1, y=2', when every part has another one."""


Same = Callable[[str, str], bool | None]
"""Whether two parts are equal; None when it cannot be told."""


def compare(got: str, wanted: str, same: Same, order: str = "brackets") -> bool | None:
    """Whether two normal forms of several parts are equal; None when neither is one, or it takes algebra to tell.

    `order` as in `MathRules`.
    """
    got, wanted = (_MEMBER.sub("", _spelled(text)) for text in (got, wanted))
    mine, theirs = read_intervals(got), read_intervals(wanted)
    if mine is not None and theirs is not None:
        return _equal_intervals(mine, theirs)
    if theirs is not None and evaluate(got) is not None:
        return False
    ours, golds = read_parts(got), read_parts(wanted)
    if ours is None and golds is None:
        return None
    ours = Parts("list", (got,)) if ours is None else ours
    golds = Parts("list", (wanted,)) if golds is None else golds
    if max(len(ours.items), len(golds.items)) > MAX_PARTS:
        return None
    if ours.names and golds.names:
        mine_by, gold_by = (dict(zip(parts.names, parts.items, strict=True)) for parts in (ours, golds))
        if mine_by.keys() != gold_by.keys():
            return False
        ours = Parts("tuple", tuple(mine_by[name] for name in golds.names))
        return _in_order(ours, golds, same)
    if ours.names or golds.names:
        roots = len({name[0] for name in ours.names or golds.names}) == 1
        return (_without_order if roots else _in_order)(ours, golds, same)  # x_1 and x_2 are of one unknown
    if order == "any":
        return _without_order(ours, golds, same)
    if order == "strict" and "set" not in (ours.kind, golds.kind):
        return _in_order(ours, golds, same)
    if golds.kind == "tuple" and ours.kind == "list" and (_AND.search(got) or wanted.startswith("[")):
        return False
    if "tuple" in (ours.kind, golds.kind):
        pair = ours.kind == golds.kind and len(golds.items) == 2  # (3,4) is a point, [3,4] an interval
        choice = golds.kind == "list" and _ALTERNATIVES.search(wanted) is not None
        if "set" in (ours.kind, golds.kind) or choice or (pair and got[0] != wanted[0]):
            return False
        return _in_order(ours, golds, same)
    return _without_order(ours, golds, same)


_HOLE = re.compile(r"[a-z]\\neq?([^a-zA-Z,]+)|(?:\\mathbb\{R\}|R)\\(?:setminus|backslash)\\?\{([^{},]+)\\?\}")


_ALTERNATIVES = re.compile(r"(?<=[\d)}])or(?=[-\d(\\])|^([a-z]=).*,\1")
"""'2 or 9' and 'x=2, x=9' are no pair (2,9)."""
_ABSOLUTE = re.compile(r"\|([a-z])([-+][\d.]+)?\|(<|>|\\l[et]q?|\\g[et]q?)=?([\d./]+|\\frac\{\d+\}\{\d+\})")


def _without_bars(distance: re.Match[str]) -> str:
    """'|x-1|<2' as (-1,3), '|x|>=3' as two intervals."""
    _, shift, sign, bound = distance.groups()
    far = evaluate(bound)
    if far is None or far.exact is None:
        return distance[0]
    middle = -Fraction(shift or 0)
    low, high = middle - far.exact, middle + far.exact
    closed = "e" in sign or "=" in distance[0]
    if sign in ("<", "\\lt", "\\le", "\\leq"):
        return f"[{low},{high}]" if closed else f"({low},{high})"
    return f"(-\\infty,{low}{'])'[not closed]}\\cup{'[('[not closed]}{high},\\infty)"


def _spelled(text: str) -> str:
    if (hole := _HOLE.fullmatch(text)) is not None:  # 'x != a', and 'R without a'
        point = hole[1] or hole[2].rstrip("\\")
        return f"(-\\infty,{point})\\cup({point},\\infty)"
    text = text.replace("\\}\\cup\\{", ",")
    text = _GAP.sub(",", _ABSOLUTE.sub(_without_bars, _BUILDER.sub(r"\1", text)))
    for symbol, spelling in _SYMBOLS:
        if symbol in text:
            text = text.replace(symbol, spelling)
    return text


# ----------------------------------------------------------------------------------------------------------- intervals


def is_range(text: str) -> bool:
    """Whether a normal form is an inequality, an interval or a union of them."""
    return read_intervals(_MEMBER.sub("", _spelled(text))) is not None


def read_intervals(text: str) -> list[Interval] | None:
    """A union of intervals or inequalities in one unknown, sorted; None for anything else, a reversed one too."""
    found = [Interval(-math.inf, False, math.inf, False)] if text == "R" else [_common(p) for p in _UNION.split(text)]
    if not found or any(interval is None for interval in found):
        return None
    return sorted((i for i in found if i is not None), key=lambda i: (i.low, i.high))


def _common(text: str) -> Interval | None:
    """What is in each of the intervals that 'and' or a comma joins: 'x>1 and x<4'."""
    parts = [_interval(part) for part in _BOTH.split(text)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    low, low_out = max((i.low, not i.low_in) for i in known)
    high, high_in = min((i.high, i.high_in) for i in known)
    return Interval(low, not low_out, high, high_in) if low < high else None


def _interval(text: str) -> Interval | None:
    text = _MEMBER.sub("", text)
    if match := _BOUNDS.fullmatch(text):
        low, high = _end(match[2]), _end(match[3])
        ends = None if low is None or high is None else (low, match[1] == "[", high, match[4] == "]")
    else:
        ends = _inequality(text)
    if ends is None or ends[0] >= ends[2]:
        return None
    low, low_in, high, high_in = ends
    return Interval(low, low_in and math.isfinite(low), high, high_in and math.isfinite(high))


def _inequality(text: str) -> tuple[float, bool, float, bool] | None:
    if match := _CHAIN.fullmatch(text):
        left, first, _, second, right = match.groups()
        if first[0] != second[0]:
            return None
        if first[0] == ">":
            left, first, second, right = right, second, first, left
        low, high = _end(left), _end(right)
        return None if low is None or high is None else (low, "=" in first, high, "=" in second)
    match = _SINGLE.fullmatch(text)
    if match is None:
        return None
    left, sign, right = match.groups()
    if re.fullmatch("[a-zA-Z]", right):
        left, sign, right = right, {"<": ">", ">": "<"}[sign[0]] + sign[1:], left
    bound = _end(right)
    if bound is None or not re.fullmatch("[a-zA-Z]", left):
        return None
    return (-math.inf, False, bound, "=" in sign) if sign[0] == "<" else (bound, "=" in sign, math.inf, False)


def _end(text: str) -> float | None:
    if text in ("\\infty", "-\\infty"):
        return math.inf if text[0] != "-" else -math.inf
    value = evaluate(text)
    return None if value is None else value.number


def _equal_intervals(mine: list[Interval], theirs: list[Interval]) -> bool:
    return len(mine) == len(theirs) and all(
        (a.low_in, a.high_in) == (b.low_in, b.high_in) and _near(a.low, b.low) and _near(a.high, b.high)
        for a, b in zip(mine, theirs, strict=True)
    )


def _near(a: float, b: float) -> bool:
    whole = a.is_integer() or b.is_integer()
    return a == b or math.isclose(a, b, rel_tol=1e-9 if whole else 1e-6)


# --------------------------------------------------------------------------------------------------------------- parts


def read_parts(text: str) -> Parts | None:
    """The parts of '{1,2}', '1,2', '(1,2)', '[1,2]', 'x=1 or x=2', '\\pm2'; None for a single thing."""
    kind: Literal["set", "list", "tuple"] = "list"
    if (point := _POINT.fullmatch(text)) is not None and len(items := point[2].split(",")) == point[1].count(",") + 1:
        return Parts("list", tuple(items), tuple(f"{name}=" for name in point[1].split(",")))
    for opening, closing, name in (("\\{", "\\}", "set"), ("{", "}", "set"), ("(", ")", "tuple"), ("[", "]", "tuple")):
        if text.startswith(opening) and text.endswith(closing) and _wraps(text, opening, closing):
            text = text[len(opening) : len(text) - len(closing)]
            kind = "set" if name == "set" else "tuple"
            break
    pieces = _split(_AND.sub(",", text) if kind == "list" else text)
    if pieces is None or (len(pieces) == 1 and kind != "set" and "\\pm" not in text):
        return None
    if kind == "set" and len(pieces) == 1 and pieces[0] == "":
        return Parts("set", ())
    named = [_NAME.match(piece) for piece in pieces]
    names = tuple(name[0] for name in named if name is not None) if kind == "list" else ()
    items = [_NAME.sub("", piece) for piece in pieces]
    if len(pieces) > 1 and len(set(names)) == len(pieces):
        return Parts(kind, tuple(items), names) if all(items) else None
    if kind != "tuple":
        items = [signed for item in items for signed in _both_signs(item)]
    return Parts(kind, tuple(items)) if all(items) else None


def _wraps(text: str, opening: str, closing: str) -> bool:
    """Whether the last bracket closes the first one."""
    depth, first, last = 0, opening[-1], closing[-1]
    for position, char in enumerate(text):
        depth += (char == first) - (char == last)
        if depth == 0 and char == last:
            return position == len(text) - 1
    return False


def _split(text: str) -> list[str] | None:
    """At commas and semicolons outside brackets; None when brackets do not match."""
    pieces, depth, start = [], 0, 0
    for position, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return None
        if char in ",;" and depth == 0:
            pieces.append(text[start:position])
            start = position + 1
    return [*pieces, text[start:]] if depth == 0 else None


def _both_signs(item: str) -> list[str]:
    """'\\pm2' is 2 and -2, '1\\pm2' is 1+2 and 1-2."""
    if item.count("\\pm") != 1:
        return [item]
    before, after = item.split("\\pm")
    return [f"{before}+{after}" if before else after, f"{before}-{after}"]


def _in_order(ours: Parts, golds: Parts, same: Same) -> bool | None:
    if len(ours.items) != len(golds.items):
        return False
    verdicts = [same(mine, gold) for mine, gold in zip(ours.items, golds.items, strict=True)]
    return False if False in verdicts else (None if None in verdicts else True)


def _without_order(ours: Parts, golds: Parts, same: Same) -> bool | None:
    """Each part of one is in the other, and the other way round; the same part twice is one part."""
    table = [[same(mine, gold) for gold in golds.items] for mine in ours.items]
    lines = [*table, *zip(*table, strict=True)] if table else [[False]] * len(golds.items)
    if not golds.items and ours.items:
        return False
    matched = [True if True in line else (None if None in line else False) for line in lines]
    return False if False in matched else (None if None in matched else True)
