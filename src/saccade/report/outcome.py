"""What a run achieved, in words that its numbers support: held-out accuracy before and after, and how much of the gain
needs the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from saccade.evaluation.statistics import Comparison, Interval, bootstrap, compare_paired, wilson
from saccade.runs.files import BLIND_ITEMS, JsonRow, RunFiles

Evaluation = tuple[int, Sequence[JsonRow]]
"""(step, items)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Held-out accuracy at the first and at the last evaluation, paired by question."""

    first_step: int
    last_step: int
    first: Interval
    last: Interval
    change: Comparison

    @property
    def verdict(self) -> str:
        """One sentence that claims no more than the interval of the difference."""
        now, before = percent(self.last.mean), percent(self.first.mean)
        if self.change.low > 0:
            return f"Held-out accuracy rose from {before} to {now}"
        if self.change.high < 0:
            return f"Held-out accuracy fell from {before} to {now}"
        return f"No measurable change in held-out accuracy: {before}, then {now}"

    @property
    def detail(self) -> str:
        change = self.change
        return (
            f"{points(change.difference)} between step {self.first_step} and step {self.last_step} (95% interval "
            f"{signed(change.low)} to {signed(change.high)}, {change.n} questions that training never sees, paired)."
        )


def accuracy(item: JsonRow) -> float | None:
    """Share of right attempts; None for an item whose gold cannot be graded."""
    verdicts = item["verdicts"]
    return None if None in verdicts else fmean(float(one) for one in verdicts)


def by_id(items: Sequence[JsonRow]) -> dict[str, float]:
    """Sample id -> accuracy, of the gradable items."""
    found = {str(item["sample_id"]): accuracy(item) for item in items}
    return {name: value for name, value in found.items() if value is not None}


def outcome(evaluations: Sequence[Evaluation]) -> Outcome | None:
    """None with fewer than two evaluations, or without common questions."""
    if len(evaluations) < 2:
        return None
    (begin, first_items), (end, last_items) = evaluations[0], evaluations[-1]
    first, last = by_id(first_items), by_id(last_items)
    common = [name for name in first if name in last]
    if not common:
        return None
    change = compare_paired("", [last[name] for name in common], [first[name] for name in common])
    return Outcome(begin, end, _interval(first, common), _interval(last, common), change)


def _interval(values: Mapping[str, float], names: Sequence[str]) -> Interval:
    found = [values[name] for name in names]
    return wilson(round(sum(found)), len(found)) if set(found) <= {0.0, 1.0} else bootstrap(found)


def blind_words(run: RunFiles, evaluations: Sequence[Evaluation]) -> str:
    """How much of the accuracy, and of its gain, needs the image."""
    if not evaluations:
        return ""
    blind = [(step, by_id(items)) for step, items in run.evaluations(BLIND_ITEMS)]
    seen = {step: by_id(items) for step, items in evaluations}
    blind = [(step, found) for step, found in blind if found and step in seen]  # a run that trains may have more by now
    if not blind:
        return "No blind control in this run: how much of its accuracy needs the image is not known."
    common = set.intersection(*(set(found) & set(seen[step]) for step, found in (blind[0], blind[-1])))
    if not common:
        return "The blind control and the evaluation have no question in common."
    names = sorted(common)
    how = _how_blind(run)
    (begin, first), (end, last) = blind[0], blind[-1]
    now = [fmean(of[name] for name in names) for of in (seen[end], last)]
    needs = compare_paired("", [seen[end][n] for n in names], [last[n] for n in names])
    words = (
        f"With {how}, {percent(now[1])} of {len(names)} questions are answered right, {percent(now[0])} with their own"
    )
    if needs.low <= 0:
        return f"{words}: it is not shown that the answers need the image ({_of(needs)})."
    if begin == end:
        return f"{words}: {points(needs.difference)} need the image ({_of(needs)})."
    gains = {name: (seen[end][name] - seen[begin][name], last[name] - first[name]) for name in names}
    gain = fmean(own for own, _ in gains.values())
    without = fmean(other for _, other in gains.values())
    paired = compare_paired("", [own for own, _ in gains.values()], [other for _, other in gains.values()])
    if gain <= 0:
        return f"{words}: {points(needs.difference)} need the image ({_of(needs)})."
    if paired.low <= 0:
        return (
            f"{words}. On these questions it gained {points(gain)}, without the image {points(without)}: it is not "
            f"shown that the gain needs the image ({_of(paired)})."
        )
    return (
        f"{words}. Of a gain of {points(gain)} on these questions, {points(paired.difference)} need the image "
        f"({_of(paired)})."
    )


def _how_blind(run: RunFiles) -> str:
    section = run.config.get("eval", {})
    blind = section.get("blind", {}) if isinstance(section, dict) else {}
    gray = isinstance(blind, dict) and blind.get("image") == "blank"
    return "a gray image" if gray else "another question's image"


def _of(change: Comparison) -> str:
    return f"95% interval {signed(change.low)} to {signed(change.high)}"


def percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def signed(share: float) -> str:
    return f"{100 * share:+.0f}"


def points(share: float) -> str:
    value = round(100 * share)
    return f"{value:+d} point{'' if abs(value) == 1 else 's'}"
