"""The mixture: a stream of samples, each a pure function of the seed and its position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from saccade.data.order import EpochOrder
from saccade.data.sources import Source
from saccade.types import Sample

_GOLDEN = 0.6180339887498949
"""Its multiples modulo 1 fill the unit interval as evenly as possible."""


class Mixture:
    """Sources mixed by weight.

    Position p of the stream belongs to the source whose share of the unit interval contains `p * golden + shift`: after
    any number of positions each source has its share to within a few samples. A finite source is read in a seeded
    permutation, a new one in each epoch; an infinite one is read in order. Samples that prove unusable are skipped
    (`EpochOrder`).
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
        self._orders: dict[int, EpochOrder] = {}
        self.restore({})

    def draw(self, position: int, n: int) -> list[Sample]:
        """The samples at `position` to `position + n - 1` of the stream, a pure function of the seed, the positions
        and the rows that were skipped before."""
        counts = self._counts_before(position)
        samples = []
        for k in self._owners(position, position + n):
            samples.append(self.sources[k][self._index(int(k), int(counts[k]))])
            counts[k] += 1
        return samples

    def skips(self, position: int) -> bool:
        """Whether the source of a position allows to skip unusable samples."""
        return self.sources[int(self._owners(position, position + 1)[0])].on_bad == "skip"

    def skip(self, position: int) -> None:
        """The sample at `position` proved unusable: another of its source takes the place, and it is never drawn again.
        ValueError when no sample of the source is left."""
        k = int(self._owners(position, position + 1)[0])
        if k not in self._orders:
            raise ValueError(f"source '{self.sources[k].name}' has no end; its samples are not skipped")
        try:
            self._orders[k].skip(int(self._counts_before(position)[k]))
        except ValueError as error:
            raise ValueError(f"source '{self.sources[k].name}': {error}") from None

    def skipped(self, position: int) -> dict[str, list[list[int]]]:
        """Per index of a source, the rows skipped at positions below `position`: what a checkpoint must hold."""
        counts = self._counts_before(position)
        found = {str(k): [list(one) for one in o.skipped if 0 <= one[0] < counts[k]] for k, o in self._orders.items()}
        return {k: rows for k, rows in found.items() if rows}

    def restore(self, skipped: Mapping[str, Sequence[Sequence[int]]]) -> None:
        """Continues the stream of a checkpoint, see `skipped`."""
        for k, source in enumerate(self.sources):
            if source.size is not None:
                known = [(-1, row) for row in sorted(source.unusable)]
                try:
                    skips = [*known, *skipped.get(str(k), ())]
                    order = EpochOrder(source.size, partial(self._rows_of_epoch, k), skips)
                except ValueError as error:
                    raise ValueError(f"source '{source.name}': {error}") from None
                self._orders[k] = order

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
        return count if source not in self._orders else self._orders[source][count]

    def _rows_of_epoch(self, source: int, epoch: int) -> list[int]:
        return self._shuffled(source, epoch).tolist()

    def _shuffled(self, source: int, epoch: int) -> np.ndarray:
        return np.random.default_rng((abs(self.seed), 1, source, epoch)).permutation(len(self.sources[source]))
