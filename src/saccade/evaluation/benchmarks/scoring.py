"""Aggregation: accuracies with intervals, overall and per slice, and the figures that are not plain means."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from saccade.evaluation.benchmarks.benchmark import (
    Benchmark,
    BenchmarkScore,
    ItemOutcome,
    OutcomeGroup,
    Statistic,
    slice_values,
)
from saccade.evaluation.statistics import LEVEL, wilson
from saccade.runs.files import JsonRow

DRAWS = 1_000
"""Resamples for figures and clustered means."""


def flat(groups: Sequence[OutcomeGroup]) -> list[ItemOutcome]:
    return [one for group in groups for one in group]


def mean(groups: Sequence[OutcomeGroup]) -> float | None:
    """Share of right answers; with several attempts their mean."""
    outcomes = flat(groups)
    return sum(one.mean for one in outcomes) / len(outcomes) if outcomes else None


ACCURACY = BenchmarkScore("accuracy", mean)


def grouped(groups: Sequence[OutcomeGroup], dimension: str) -> dict[str, list[OutcomeGroup]]:
    """Value of a dimension -> its part of each group, in order of first appearance."""
    found: dict[str, list[OutcomeGroup]] = defaultdict(list)
    for group in groups:
        parts: dict[str, list[ItemOutcome]] = defaultdict(list)
        for one in group:
            for value in slice_values(one.slices, dimension):
                parts[value].append(one)
        for value, part in parts.items():
            found[value].append(part)
    return dict(found)


def mean_of_slices(dimension: str, of: Statistic = mean) -> Statistic:
    """The unweighted mean of a figure over the values of a dimension."""

    def statistic(groups: Sequence[OutcomeGroup]) -> float | None:
        values = [value for some in grouped(groups, dimension).values() if (value := of(some)) is not None]
        return sum(values) / len(values) if values else None

    return statistic


def clusters(outcomes: Sequence[ItemOutcome]) -> list[OutcomeGroup]:
    """Outcomes by group, in order of first appearance."""
    found: dict[Hashable, list[ItemOutcome]] = defaultdict(list)
    for one in outcomes:
        found[one.group].append(one)
    return list(found.values())


def interval(
    groups: Sequence[OutcomeGroup], score: BenchmarkScore, seed: int = 0
) -> tuple[float | None, float | None, str]:
    """(low, high, how) of a score at `LEVEL`: Wilson for independent single answers, else a bootstrap over groups."""
    outcomes = flat(groups)
    if score.of is mean:
        binary = all(len(one.values) == 1 for one in outcomes) and len(groups) == len(outcomes)
        if binary or {one.mean for one in outcomes} in ({0.0}, {1.0}):
            found = wilson(sum(round(one.mean) for one in outcomes), len(outcomes))
            return found.low, found.high, "wilson"
        return (*mean_bootstrap(groups, seed), "bootstrap over groups")
    if score.most is not None and len(outcomes) > score.most:
        return None, None, f"none: more than {score.most} items"
    if len(groups) < 2:
        return None, None, "none: fewer than two groups"
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, len(groups), len(groups)) for _ in range(DRAWS if score.most is None else 100))
    values = [value for drawn in draws if (value := score.of([groups[i] for i in drawn])) is not None]
    if not values:
        return None, None, "none: no resample gives a value"
    return (*_ends(np.asarray(values)), "bootstrap over groups")


def mean_bootstrap(groups: Sequence[OutcomeGroup], seed: int = 0) -> tuple[float, float]:
    """Ends of the mean over items at `LEVEL` when whole groups are drawn."""
    sums = np.array([sum(one.mean for one in group) for group in groups])
    sizes = np.array([len(group) for group in groups])
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(groups), (DRAWS, len(groups)))
    return _ends(sums[drawn].sum(1) / sizes[drawn].sum(1))


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def figure(groups: Sequence[OutcomeGroup], score: BenchmarkScore, **named: str) -> JsonRow | None:
    """A row of results; None when there is no value."""
    value = score.of(groups) if groups else None
    if value is None or not math.isfinite(value):
        return None
    low, high, how = interval(groups, score)
    row = {"score": score.name, "value": value, "low": low, "high": high}
    return {**named, **row, "n": len(flat(groups)), "scale": score.scale, "interval": how}


def figures(benchmark: Benchmark, outcomes: Sequence[ItemOutcome]) -> list[JsonRow]:
    """The headline first, then plain accuracy, the benchmark's other figures, and accuracy per slice."""
    groups = clusters(outcomes)
    scores = [benchmark.headline, *(s for s in (ACCURACY, *benchmark.scores) if s.name != benchmark.headline.name)]
    rows = [figure(groups, score) for score in scores]
    for dimension in benchmark.slices:
        for value, some in sorted(grouped(groups, dimension).items()):
            rows.append(figure(some, ACCURACY, dimension=dimension, slice=value))
    return [row for row in rows if row is not None]


def crossed(slices: Mapping[str, Any], first: str, second: str) -> list[str]:
    """Values of two dimensions together, for sub-scores such as subject x version."""
    return [f"{a} / {b}" for a in slice_values(slices, first) for b in slice_values(slices, second)]
