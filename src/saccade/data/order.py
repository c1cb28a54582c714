"""The order in which a finite source is read: seeded permutations that unusable rows do not shift.

A row that proves unusable when its turn comes leaves its place to the last row of the epoch, which then ends one row
earlier; every other row keeps its place. The order is a function of the seed and of the rows skipped so far, so a
checkpoint holds only those.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Sequence

Skipped = tuple[int, int]
"""(draws of the source before it, index of the row) of an unusable row."""


class EpochOrder:
    """`order[count]`: the row of a source after `count` draws from it; each usable row once before any twice."""

    def __init__(
        self, size: int, permutation: Callable[[int], Sequence[int]], skipped: Iterable[Sequence[int]] = ()
    ) -> None:
        """`permutation(epoch)` has all indices below `size`; `skipped` are those of a run that continues."""
        self._size, self._permutation = size, permutation
        self.skipped: list[Skipped] = sorted(((int(count), int(row)) for count, row in skipped), key=_count)
        self._unusable = {row for _, row in self.skipped}
        self._refuse_none()
        self._rewind()

    def __getitem__(self, count: int) -> int:
        if count < self._start:
            self._rewind()
        while count >= self._start + len(self._rows):
            self._begin(self._epoch + 1, self._start + len(self._rows))
        return self._rows[count - self._start]

    def skip(self, count: int) -> None:
        """The row at `count` is unusable: the place is filled from the end of the epoch. ValueError for the last one
        that was usable."""
        row = self[count]
        self._unusable.add(row)
        self._refuse_none()
        insort(self.skipped, (count, row), key=_count)  # after earlier ones at the same place
        self._fill(row)

    def _refuse_none(self) -> None:
        if len(self._unusable) >= self._size:
            raise ValueError(f"none of its {self._size:,} rows is usable")

    def _rewind(self) -> None:
        self._begin(0, 0)

    def _begin(self, epoch: int, start: int) -> None:
        """The rows of an epoch: those skipped before it are filled, then those skipped within it, as they were."""
        self._epoch, self._start = epoch, start
        self._rows = list(map(int, self._permutation(epoch)))
        self._places: dict[int, int] = {}
        for count, row in self.skipped:
            if count < start or count < start + len(self._rows):
                self._fill(row)

    def _fill(self, row: int) -> None:
        """The last row of the epoch takes the place of `row`."""
        self._places = self._places or {one: place for place, one in enumerate(self._rows)}
        place = self._places.pop(row, None)
        if place is None:
            return
        last = self._rows.pop()
        if last != row:
            self._rows[place], self._places[last] = last, place


def _count(skipped: Skipped) -> int:
    return skipped[0]
