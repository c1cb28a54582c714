"""Reading points out of an answer."""

from __future__ import annotations

import math
import re

Point = tuple[float, float]

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)"
_PAIR = re.compile(rf"[\[(]\s{{0,9}}({_NUMBER})\s{{0,9}},\s{{0,9}}({_NUMBER})\s{{0,9}}[\])]")
_XML = re.compile(rf'<point\s{{1,9}}x="({_NUMBER})"\s{{1,9}}y="({_NUMBER})"')
_BARE = re.compile(rf"\s{{0,9}}({_NUMBER})\s{{0,9}}[, ]\s{{0,9}}({_NUMBER})\s{{0,9}}")


def read_points(text: str) -> list[Point]:
    """All points of an answer, in order, as written; [] when there are none.

    Reads `{"point_2d": [x, y]}`, `[x, y]`, `(x, y)`, lists of these, `<point x="1" y="2">`, and a bare `x, y` when it
    is the whole text. A list of four numbers is a box and no point. Takes any string; linear in its length.
    """
    found = _XML.findall(text) or _PAIR.findall(text)
    if not found and len(text) < 100 and (bare := _BARE.fullmatch(text)):
        found = [bare.groups()]
    points = [(float(x), float(y)) for x, y in found]
    return [point for point in points if all(map(math.isfinite, point))]
