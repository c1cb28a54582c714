"""The results table: models by split and decoding, with intervals; controls are listed last and marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from saccade.report.charts import forest

Json = dict[str, Any]
DECODINGS = ("greedy", "sampled")


@dataclass(frozen=True, slots=True)
class Cell:
    """An accuracy as shown on the page, in percent."""

    value: str
    interval: str


@dataclass(frozen=True, slots=True)
class Line:
    """One model (or control) on one split. A cell is None if it was not measured."""

    model: str
    control: str | None
    cells: tuple[Cell | None, ...]
    """One per decoding of the table, or one per task."""
    plot: Markup | None = None
    tokens: str = ""
    truncated: str = ""
    decoding: str = ""


@dataclass(frozen=True, slots=True)
class SplitTable:
    """All models on one split: overall, and by task."""

    split: str
    n: str
    """Items per row: '900', or '300 to 900' when rows differ."""
    decodings: tuple[str, ...]
    lines: tuple[Line, ...]
    tasks: tuple[str, ...]
    by_task: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired comparison as text and as a plot."""

    name: str
    words: str
    """'+28.3 points' or 'not shown'."""
    interval: str
    n: str
    shown: bool
    plot: Markup


def tables(rows: Iterable[Json]) -> list[SplitTable]:
    """One table per split, in order of first appearance."""
    splits: dict[str, list[Json]] = {}
    for row in rows:
        splits.setdefault(str(row["split"]), []).append(row)
    return [_table(split, of_split) for split, of_split in splits.items()]


def _table(split: str, rows: Sequence[Json]) -> SplitTable:
    found = {(r["model"], r.get("control") or None, r["decoding"], r["task"]): r for r in rows}
    models = sorted(dict.fromkeys((m, c) for m, c, _, _ in found), key=lambda pair: pair[1] is not None)
    decodings = tuple(d for d in DECODINGS if any(r["decoding"] == d for r in rows))
    tasks = tuple(dict.fromkeys(str(r["task"]) for r in rows if r["task"] != "all"))
    lines = [_overall(m, c, [found.get((m, c, d, "all")) for d in decodings]) for m, c in models]
    by_task = [
        Line(m, c, tuple(_cell(found.get((m, c, d, t))) for t in tasks), decoding=d)
        for m, c in models
        for d in decodings
        if any((m, c, d, t) in found for t in tasks)
    ]
    sizes = sorted({int(r["n"]) for r in rows if r["task"] == "all"})
    n = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}" if sizes else "?"
    return SplitTable(split, n, decodings, tuple(lines), tasks, tuple(by_task))


def _overall(model: str, control: str | None, rows: Sequence[Json | None]) -> Line:
    points = [(r["accuracy"], r["low"], r["high"], int(r["decoding"] != "greedy")) for r in rows if r]
    return Line(
        model,
        control,
        tuple(_cell(r) for r in rows),
        forest(points),
        " / ".join(f"{r['mean_tokens']:.1f}" for r in rows if r),
        " / ".join(f"{100 * r['truncated']:.1f}" for r in rows if r),
    )


def _cell(row: Json | None) -> Cell | None:
    if row is None:
        return None
    return Cell(f"{100 * row['accuracy']:.1f}", f"{100 * row['low']:.1f} to {100 * row['high']:.1f}")


def differences(comparisons: Sequence[Json]) -> list[Comparison]:
    """Paired comparisons; one whose interval contains 0 is labeled 'not shown', whatever its mean."""
    if not comparisons:
        return []
    reach = max(0.05, *(abs(c[end]) for c in comparisons for end in ("low", "high")))
    return [_difference(c, reach) for c in comparisons]


def _difference(row: Json, reach: float) -> Comparison:
    shown = is_shown(row)
    plot = forest([(row["difference"], row["low"], row["high"], int(not shown))], (-reach, reach), zero=True)
    words = f"{100 * row['difference']:+.1f} points" if shown else "not shown"
    interval = f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
    return Comparison(str(row["name"]), words, interval, str(row["n"]), shown, plot)


def is_shown(row: Json) -> bool:
    """Computed from the interval, so that a file cannot claim more than its numbers show."""
    return row["low"] > 0 or row["high"] < 0
