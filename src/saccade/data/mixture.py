"""The mixture: the samples of a step as a pure function of (seed, step), so that resuming needs no state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from saccade.data.sources import Source
from saccade.types import Sample

_GOLDEN = 0.6180339887498949
"""Its multiples modulo 1 fill the unit interval as evenly as possible."""


class Mixture:
    """Sources mixed by weight.

    Position p of the stream belongs to the source whose share of the unit interval contains `p * golden + shift`: after
    any number of positions each source has its share to within a few samples. A finite source is read in a seeded
    permutation, a new one in each epoch; an infinite one is read in order.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float] | None = None, seed: int = 0) -> None:
        weights = [1.0] * len(sources) if weights is None else weights
        if not sources or len(weights) != len(sources):
            raise ValueError(f"got {len(sources)} sources and {len(weights)} weights; expected one weight per source")
        if min(weights) <= 0:
            raise ValueError(f"got weights {list(weights)}; expected numbers above 0 (remove the source instead)")
        if empty := [source.name for source in sources if source.size == 0]:
            raise ValueError(f"source '{empty[0]}' holds no samples")
        self.sources = tuple(sources)
        self.seed = seed
        self._edges = np.cumsum(weights)[:-1] / sum(weights)
        self._shift = np.random.default_rng((abs(seed), 0)).random()
        self._last_counts = (0, np.zeros(len(sources), dtype=np.int64))
        self._permutation = lru_cache(maxsize=2 * len(sources))(self._shuffled)

    def draw(self, step: int, n: int) -> list[Sample]:
        """The n samples of a step: positions `step * n` to `step * n + n - 1` of the stream. Changing n midway shifts
        the position, so an epoch is free of repetition only for a constant n."""
        counts = self._counts_before(step * n)
        samples = []
        for k in self._owners(step * n, step * n + n):
            samples.append(self.sources[k][self._index(int(k), int(counts[k]))])
            counts[k] += 1
        return samples

    def _owners(self, start: int, stop: int) -> np.ndarray:
        """The source index of each position in [start, stop)."""
        u_P = (np.arange(start, stop) * _GOLDEN + self._shift) % 1.0
        return np.searchsorted(self._edges, u_P, side="right")

    def _counts_before(self, position: int) -> np.ndarray:
        """Positions of each source before `position`. Continues from the previous call."""
        known, counts = self._last_counts
        if position < known:
            known, counts = 0, np.zeros(len(self.sources), dtype=np.int64)
        counts = counts + np.bincount(self._owners(known, position), minlength=len(self.sources))
        self._last_counts = (position, counts)
        return counts.copy()

    def _index(self, source: int, count: int) -> int:
        """The sample index of a source after `count` draws."""
        size = self.sources[source].size
        return count if size is None else int(self._permutation(source, count // size)[count % size])

    def _shuffled(self, source: int, epoch: int) -> np.ndarray:
        return np.random.default_rng((abs(self.seed), 1, source, epoch)).permutation(len(self.sources[source]))
