"""Inline SVG: distributions of lengths, one outline each, as shares, so that different totals can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from saccade.report.charts import number, ticks

WIDTH, HEIGHT = 720, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 14, 26


@dataclass(frozen=True, slots=True)
class Shape:
    """A distribution: (from, below, count) of consecutive bins; all distributions have the same edges."""

    name: str
    bars: tuple[tuple[int, ...], ...]
    color: int = 0

    @property
    def total(self) -> int:
        return sum(bar[2] for bar in self.bars)


def histogram(shapes: Sequence[Shape], title: str) -> Markup:
    """Outlines over bins of equal width. Needs at least one nonempty distribution."""
    edges = sorted({edge for shape in shapes for bar in shape.bars for edge in bar[:2]})
    place = {edge: LEFT + i * (WIDTH - LEFT - RIGHT) / (len(edges) - 1) for i, edge in enumerate(edges)}
    rows = ticks(0.0, max(bar[2] / shape.total for shape in shapes for bar in shape.bars), 4)
    floor = HEIGHT - BOTTOM

    def py(share: float) -> float:
        return floor - share / rows[-1] * (floor - TOP)

    parts = [f'<svg class="chart wide" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for share in rows:
        kind, y = "grid" if share else "axis", py(share)
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(share, True)}</text>')
    every = max(1, len(edges) // 9)
    for edge in edges[::every]:
        parts.append(f'<text x="{place[edge]:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{number(edge)}</text>')
    for shape in shapes:
        outline = [f"{place[shape.bars[0][0]]:.1f},{floor}"]
        for low, high, count in shape.bars:
            y = py(count / shape.total)
            outline += [f"{place[low]:.1f},{y:.1f}", f"{place[high]:.1f},{y:.1f}"]
        outline.append(f"{place[shape.bars[-1][1]]:.1f},{floor}")
        parts.append(f'<polygon class="area c{shape.color}" points="{" ".join(outline)}"/>')
    return Markup("".join([*parts, "</svg>"]))
