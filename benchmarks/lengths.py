"""Replies of unequal lengths, as reasoning models give them: a few long ones and many short."""

from __future__ import annotations

import math
import random

SIGMA = 0.75
"""Of the logarithm: the longest of 64 replies is about four times the mean."""


def lognormal(count: int, mean: float, longest: int, seed: int = 0) -> list[int]:
    """Lengths in tokens with the given mean to half a token, the longest of exactly `longest`.

    ValueError when no seed near `seed` gives that.
    """
    for attempt in range(seed, seed + 5000):
        draw = random.Random(attempt)
        lengths = [round(draw.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA)) for _ in range(count)]
        lengths = [min(max(one, 2), longest) for one in lengths]
        if max(lengths) == longest and abs(sum(lengths) / count - mean) < 0.5:
            return lengths
    raise ValueError(f"no draw of {count} lengths has mean {mean} and maximum {longest}; ask for others")
