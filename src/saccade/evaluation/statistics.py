"""Uncertainty of scores: intervals, several attempts per item, and the paired comparison of two runs. Pure functions.

Letters: N items, K attempts per item. Values are fractions in [0, 1]; intervals are two-sided at `LEVEL` by default.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from saccade.grading import letters_for
from saccade.grading.latex import evaluate, normal
from saccade.parsing import fold, read_choice

LEVEL = 0.95
DRAWS = 10_000
"""Resamples of a bootstrap; its own error is then a few tenths of a point at n = 300."""
LONGEST_VOTE = 500
"""Characters of an answer that may be read as a letter or a number when answers vote."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with the ends of its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The paired difference of two runs on the same items, `a - b`."""

    name: str
    difference: float
    low: float
    high: float
    n: int
    p: float | None
    """McNemar's exact two-sided p; None when an item has more than one attempt."""

    @property
    def shown(self) -> bool:
        """True when the interval excludes 0."""
        return self.low > 0.0 or self.high < 0.0


def wilson(right: int, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson's score interval for `right` of `n` independent answers (Wilson 1927).

    Unlike mean +- 2 standard errors it stays inside [0, 1] and has a width at 0 and n right. No items: mean nan,
    interval [0, 1].
    """
    if not 0 <= right <= n:
        raise ValueError(f"wilson got {right} right of {n}; expected 0 <= right <= n")
    if n == 0:
        return Interval(math.nan, 0.0, 1.0)
    from scipy.stats import binomtest  # takes a second to import, which recipes and --list do not need

    ends = binomtest(right, n).proportion_ci(level, method="wilson")
    return Interval(right / n, float(ends.low), float(ends.high))


def bootstrap(
    values_N: Sequence[float] | np.ndarray, *, draws: int = DRAWS, seed: int = 0, level: float = LEVEL
) -> Interval:
    """Percentile bootstrap of the mean over items (Efron 1979): items are resampled, an item's attempts stay
    together.

    Attempts of one item are not independent, so resampling single answers would give intervals that are too narrow.
    """
    values = np.asarray(values_N, dtype=np.float64)
    if values.size == 0:
        return Interval(math.nan, 0.0, 1.0)
    means = _resampled_means(values, draws, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def _resampled_means(values_N: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Means of `draws` resamples of N values, in blocks so that memory stays under some 8 MB."""
    rng = np.random.default_rng(seed)
    n = len(values_N)
    block = max(1, 1_000_000 // n)
    starts = range(0, draws, block)
    return np.concatenate([values_N[rng.integers(0, n, (min(block, draws - s), n))].mean(axis=1) for s in starts])


def pass_at_k(n: int, right: int, k: int) -> float:
    """Chance that at least one of `k` attempts drawn from `n` is right: 1 - C(n - right, k) / C(n, k).

    The unbiased estimator of Chen et al. 2021 (https://arxiv.org/abs/2107.03374, eq. 1).
    """
    if not (0 <= right <= n and 1 <= k <= n):
        raise ValueError(f"pass_at_k got n={n}, right={right}, k={k}; expected 0 <= right <= n and 1 <= k <= n")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def maj_at_k(
    answers_K: Sequence[str | None], verdicts_K: Sequence[bool], key: Callable[[str], str] | None = None
) -> float:
    """Is the most frequent answer of one item right? An attempt without an answer does not vote; a tie counts
    fractionally.

    Right answers vote together whatever their spelling, since each equals the gold; wrong ones with equal `key`
    (`vote_key`) do. Attempts with one key share the verdict of the first.
    """
    keys_K = [None if answer is None else (key or vote_key)(answer) for answer in answers_K]
    right = dict(zip(reversed(keys_K), reversed(verdicts_K), strict=True))
    votes = Counter("" if right[one] else f"wrong {one}" for one in keys_K if one is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [one for one, count in votes.items() if count == most]
    return float("" in winners) / len(winners)


def vote_key(answer: str, options: Sequence[str] = ()) -> str:
    """An answer in normal form: the letter of an option, a number (1/2 is 0.5), else the folded text.

    Answers beyond `LONGEST_VOTE` characters are compared as texts. Takes any string.
    """
    if len(answer) > LONGEST_VOTE:
        return fold(answer)
    if options and (letter := read_choice(answer, letters_for(options), options)) is not None:
        return letter
    expression = normal(answer)
    value = evaluate(expression)
    return fold(expression) if value is None else f"{value.number + 0.0:.9g}"


def mcnemar(only_a: int, only_b: int) -> float:
    """McNemar's exact two-sided p (1947): the binomial test on the items that only one of two runs has right."""
    if only_a + only_b == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue)


def compare_paired(
    name: str, a_N: Sequence[float], b_N: Sequence[float], *, draws: int = DRAWS, seed: int = 0
) -> Comparison:
    """Mean of `a - b` over the same items, with a bootstrap interval over items, and McNemar's p for 0/1 values."""
    if len(a_N) != len(b_N) or not len(a_N):
        raise ValueError(
            f"comparison '{name}' got {len(a_N)} and {len(b_N)} items; expected the same items, at least one"
        )
    a, b = np.asarray(a_N, dtype=np.float64), np.asarray(b_N, dtype=np.float64)
    interval = bootstrap(a - b, draws=draws, seed=seed)
    single = bool(np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all())
    p = mcnemar(int((a > b).sum()), int((b > a).sum())) if single else None
    return Comparison(name, interval.mean, interval.low, interval.high, len(a), p)
