"""Inline SVG: line charts, and intervals as dots with whiskers. Pure functions from numbers to markup; colors are in
style.css."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 16, 24
"""Margins of a line chart, in units of its view box."""
FOREST = 260
"""Width of a row of intervals, px."""
LINE_POINTS = 1000
"""Most places of a smoothed line that are drawn."""
RAW_POINTS = 300
"""Most raw points drawn per line; more are thinned evenly (the smoothed line uses all)."""
HOVER_POINTS = 500
"""Most values per line that the page's script can show."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: values over steps, drawn in color `color` (0 to 5) of the palette."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    color: int = 0


def smooth(ys: Sequence[float], places: Sequence[int] | None = None) -> list[float]:
    """Centered moving mean over `window(len(ys))` values, at all or some places; at both ends over the available ones
    (at least half)."""
    half, values = window(len(ys)) // 2, np.asarray(ys, dtype=float)
    places = range(len(ys)) if places is None else places
    return [float(values[max(0, i - half) : i + half + 1].mean()) for i in places]


def window(n: int) -> int:
    """Number of steps to average: odd, about a twelfth of the run; 1 (no smoothing) below 10 steps."""
    return 1 if n < 10 else 2 * (n // 24) + 3


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` + 1 round values (1, 2 or 5 times a power of ten apart) that cover [low, high]."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float, percent: bool = False) -> str:
    """A value in readable form: 3 significant digits, thousands as k, shares as percent."""
    if percent:
        return f"{100 * value:.3g}%"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 10_000:
        return f"{value / 1000:.3g}k"
    if size < 0.001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}" if size < 1000 else f"{value:.0f}"


def line_chart(
    series: Sequence[Series], boundaries: Sequence[tuple[float, str]] = (), *, percent: bool = False, title: str = ""
) -> Markup:
    """Raw points, faint, under smoothed lines; stages (first x, label) as bands. Needs at least one value.

    The picture is complete without a script; `data-values` holds the numbers for the page's script, which shows them
    at the pointer.
    """
    xs = [x for line in series for x in line.xs]
    ys = [y for line in series for y in line.ys]
    rows = ticks(min(0.0, *ys), min(max(ys), 1.0) if percent and max(ys) <= 1.0 else max(ys), 4)
    x_low, x_high = min(xs), max(xs)
    x_span = (x_high - x_low) or 1.0
    y_low, y_high = rows[0], rows[-1]

    def px(x: float) -> float:
        return LEFT + (x - x_low) / x_span * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"'
    parts = [f'<svg class="chart" {size} data-values="{escape(_values(series, percent, (x_low, x_high)))}">']
    parts += _bands(boundaries, (x_low, x_high), px)
    for y in rows:
        kind = "axis" if y == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{py(y) + 3.5:.1f}" text-anchor="end">{number(y, percent)}</text>')
    for x in [t for t in ticks(x_low, x_high) if x_low <= t <= x_high and t == int(t)]:
        anchor = "end" if px(x) > WIDTH - RIGHT - 10 else "middle"
        parts.append(f'<text x="{px(x):.1f}" y="{HEIGHT - 7}" text-anchor="{anchor}">{number(x)}</text>')
    for place, line in enumerate(series):
        count = len(line.xs)
        parts.append(f'<g data-line="{place}">')
        if window(count) > 1 or count == 1:
            thin = range(0, count, math.ceil(count / RAW_POINTS))
            dots = "".join(f"M{px(line.xs[i]):.1f} {py(line.ys[i]):.1f}h0" for i in thin)
            parts.append(f'<path class="raw c{line.color}" d="{dots}"/>')
        places = range(count - 1, -1, -math.ceil(count / LINE_POINTS))[::-1]  # the last one is among them
        means = zip(places, smooth(line.ys, places), strict=True)
        run = " ".join(f"{px(line.xs[i]):.1f},{py(y):.1f}" for i, y in means)
        parts.append(f'<polyline class="line c{line.color}" points="{run}"/></g>')
    return Markup("".join([*parts, "</svg>"]))


def _bands(
    boundaries: Sequence[tuple[float, str]], x_range: tuple[float, float], px: Callable[[float], float]
) -> Iterator[str]:
    """Every second stage is shaded; each has its label at its beginning."""
    ends = [x for x, _ in boundaries[1:]] + [x_range[1]]
    for place, ((begin, label), end) in enumerate(zip(boundaries, ends, strict=False)):
        left, right = px(max(begin, x_range[0])), px(min(end, x_range[1]))
        if right <= left:
            continue
        shape = f'x="{left:.1f}" width="{right - left:.1f}" y="{TOP}" height="{HEIGHT - TOP - BOTTOM}"'
        yield f'<rect class="band{" second" if place % 2 else ""}" {shape}><title>{escape(label)}</title></rect>'
        yield f'<text class="stage" x="{left + 4:.1f}" y="{TOP - 4}">{escape(label)}</text>'


def _values(series: Sequence[Series], percent: bool, x_range: tuple[float, float]) -> str:
    """What the script needs to show values: margins of the plot, range of x, and each line thinned to HOVER_POINTS."""

    def thin(values: Sequence[float]) -> list[float]:
        return [float(f"{v:.5g}") for v in values[:: max(1, math.ceil(len(values) / HOVER_POINTS))]]

    lines = [{"name": s.name.replace("_", " "), "color": s.color, "x": thin(s.xs), "y": thin(s.ys)} for s in series]
    plot = [LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM]
    return json.dumps({"plot": plot, "range": x_range, "percent": percent, "lines": lines})


def forest_axis() -> Markup:
    """The scale above a column of `forest` plots of accuracies."""
    ends = (("start", 6, "0"), ("middle", FOREST / 2, "50"), ("end", FOREST - 6, "100"))
    texts = "".join(f'<text x="{x:.0f}" y="10" text-anchor="{anchor}">{label}</text>' for anchor, x, label in ends)
    return Markup(
        f'<svg class="forest" viewBox="0 0 {FOREST} 12" width="{FOREST}" height="12" aria-hidden="true">{texts}</svg>'
    )


def forest(
    points: Sequence[tuple[float, float, float, int]],
    domain: tuple[float, float] = (0.0, 1.0),
    zero: bool = False,
    threshold: float | None = None,
) -> Markup:
    """Intervals (mean, low, high, mark) in one row; mark 0 is a filled dot, 1 a hollow one. `zero` draws a line at
    0, `threshold` a dashed one there."""
    width, gap = FOREST, 10
    height = gap * (len(points) + 1)
    low, high = domain

    def px(x: float) -> float:
        return 6 + (min(max(x, low), high) - low) / (high - low) * (width - 12)

    marks = [0.0] if zero else [low, (low + high) / 2, high]
    parts = [
        f'<svg class="forest" viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true">'
    ]
    parts += [
        f'<line class="{"zero" if zero else "grid"}" x1="{px(m):.1f}" x2="{px(m):.1f}" y1="0" y2="{height}"/>'
        for m in marks
    ]
    if threshold is not None:
        x = f"{px(threshold):.1f}"
        parts.append(f'<line class="zero" stroke-dasharray="3 3" x1="{x}" x2="{x}" y1="0" y2="{height}"/>')
    for i, (mean, left, right, mark) in enumerate(points, 1):
        y = gap * i
        parts.append(f'<line class="whisker" x1="{px(left):.1f}" x2="{px(right):.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="{"hollow" if mark else "dot"}" cx="{px(mean):.1f}" cy="{y}" r="2.9"/>')
    return Markup("".join([*parts, "</svg>"]))


def overlay(source: str, size: tuple[int, int], boxes: Sequence[tuple[Sequence[float], str]]) -> Markup:
    """An image (data URL) with boxes (xyxy in its own pixels) and a class each: 'gold' or 'predicted'."""
    width, height = size
    stroke = max(width, height) / 90
    parts = [f'<svg class="picture" viewBox="0 0 {width} {height}" role="img" aria-label="image of the question">']
    parts.append(f'<image href="{escape(source)}" width="{width}" height="{height}"/>')
    shapes = [
        f'x="{x1:.1f}" y="{y1:.1f}" width="{max(0.0, x2 - x1):.1f}" height="{max(0.0, y2 - y1):.1f}"'
        for (x1, y1, x2, y2), _ in boxes
    ]
    parts += [f'<rect class="halo" {shape} stroke-width="{2.2 * stroke:.2f}"/>' for shape in shapes]
    for shape, (_, kind) in zip(shapes, boxes, strict=True):
        dash = f' stroke-dasharray="{3 * stroke:.1f} {3 * stroke:.1f}"' if kind == "predicted" else ""
        parts.append(f'<rect class="box {kind}" {shape} stroke-width="{stroke:.2f}"{dash}/>')
    return Markup("".join([*parts, "</svg>"]))
