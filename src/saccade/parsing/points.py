"""Reading points out of an answer."""

from __future__ import annotations

import math
import re

Point = tuple[float, float]

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)"
_PAIR = re.compile(rf"[\[({{]\s{{0,9}}({_NUMBER})(?:\s?px)?\s{{0,9}},\s{{0,9}}({_NUMBER})(?:\s?px)?\s{{0,9}}[\])}}]")
_XML = re.compile(rf'<points?\s{{1,9}}x1?="({_NUMBER})"\s{{1,9}}y1?="({_NUMBER})"(?!\s{{1,9}}x2=)')
_INSIDE = re.compile(rf"<point>\s{{0,9}}({_NUMBER})\s{{0,9}}[, ]\s{{0,9}}({_NUMBER})\s{{0,9}}</point>")
_NAMED = re.compile(
    rf"(?<![\w.])[\"']?x[\"']?\s{{0,9}}[=:]\s{{0,9}}[\"']?({_NUMBER})[\"']?[,;\s]{{1,9}}"
    rf"[\"']?y[\"']?\s{{0,9}}[=:]\s{{0,9}}[\"']?((?>{_NUMBER}))(?![\w.]*\w)",
    re.IGNORECASE,
)
_BARE = re.compile(rf"\s{{0,9}}({_NUMBER})\s{{0,9}}[, ]\s{{0,9}}({_NUMBER})\s{{0,9}}")
_NARROW = str.maketrans("，、（）［］【】｛｝：＝", ",,()[][]{}:=")
LONGEST_BARE = 100
"""Characters of a text that may be two numbers and nothing else."""


def read_points(text: str) -> list[Point]:
    """All points of an answer, in order, as written; [] when there are none.

    Reads `{"point_2d": [x, y]}`, `[x, y]`, `(x, y)`, lists of these, `<point x="1" y="2">`, `<point>1 2</point>`,
    `{"x": 1, "y": 2}`, `x=1, y=2`, and a bare `x, y` when it is the whole text. Full-width commas and brackets are read
    as plain ones. A list of four numbers is a box and no point. Takes any string; linear in its length.
    """
    text = text if text.isascii() else text.translate(_NARROW)
    found = _XML.findall(text) or _PAIR.findall(text) or _INSIDE.findall(text) or _NAMED.findall(text)
    if not found and len(text) < LONGEST_BARE and (bare := _BARE.fullmatch(text)):
        found = [bare.groups()]
    points = [(float(x), float(y)) for x, y in found]
    return [point for point in points if all(map(math.isfinite, point))]
