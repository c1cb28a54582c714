"""The verdict of a study: an interval over seeds against a threshold that was fixed before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from saccade.evaluation.statistics import LEVEL, Interval
from saccade.studies.study_recipe import Verdict

MOST_SEEDS = 1000


def over_seeds(values_S: Sequence[float]) -> Interval:
    """Mean of one value per seed, with Student's t interval of S - 1 degrees. ValueError for less than two."""
    if len(values_S) < 2:
        raise ValueError(f"got {len(values_S)} seeds; an interval needs at least two")
    mean, half = float(np.mean(values_S)), _half_width(float(np.std(values_S, ddof=1)), len(values_S))
    return Interval(mean, mean - half, mean + half)


def _half_width(deviation: float, seeds: int) -> float:
    return float(student.ppf((1 + LEVEL) / 2, seeds - 1)) * deviation / math.sqrt(seeds)


@dataclass(frozen=True, slots=True)
class Decision:
    """A hypothesis with what was measured."""

    interval: Interval
    verdict: Verdict
    seeds_needed: int | None
    """Seeds after which an inconclusive result would be decided if mean and spread stayed as they are; None when it is
    decided, or when more than MOST_SEEDS would be needed."""


def decide(values_S: Sequence[float], above: float) -> Decision:
    """reproduced: the interval is above the threshold; not_reproduced: it is below; inconclusive: it holds it."""
    interval = over_seeds(values_S)
    if interval.low > above:
        return Decision(interval, "reproduced", None)
    if interval.high < above:
        return Decision(interval, "not_reproduced", None)
    deviation, distance = float(np.std(values_S, ddof=1)), abs(interval.mean - above)
    enough = (n for n in range(len(values_S) + 1, MOST_SEEDS + 1) if _half_width(deviation, n) < distance)
    return Decision(interval, "inconclusive", next(enough, None))


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a study: reproduced when every primary hypothesis is, not reproduced as soon as one is not."""
    if "not_reproduced" in verdicts:
        return "not_reproduced"
    return "inconclusive" if "inconclusive" in verdicts else "reproduced"
