"""What the rows of sources take in memory, for those who keep all of them."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

from saccade.types import Sample

RATIO, MOST = 32, 192 << 20
"""Times their files that rows may take, and bytes that they may take in any case. In JSON questions take 5 times their
bytes, lists of boxes 12 times, the shortest rows 20 times (of CSV 25)."""
_LONG, MOST_SHORT = 256, 1 << 16
_One = TypeVar("_One")


class Kept:
    """The rows of all sources that someone keeps."""

    def __init__(self) -> None:
        self._sources: list[tuple[int, Callable[[], int]]] = []
        """Bytes that the rows of a source take, and those of its files."""

    def of(self, found: Iterable[tuple[str, _One]], size: Callable[[], int]) -> Iterator[tuple[str, _One | ValueError]]:
        """The rows or samples of a source with their places, whose files have `size()` bytes: a ValueError in place of
        the rest where they take more than RATIO times as many, and all sources that do so more than MOST. Samples with
        the same file of an image share it, and those with the same short texts share these."""
        held, size, counted = 0, cache(size), _Counted()
        before = sum(taken for taken, _ in self._sources)
        try:
            for place, one in found:
                one = counted.shared(one) if isinstance(one, Sample) else one
                held += 0 if isinstance(one, ValueError) else counted.new_bytes(one)
                if held + before > MOST and held > RATIO * size() and held + self._beyond() > MOST:
                    why = f"the rows up to here take {held >> 20:,} MB of memory, more than {RATIO} times their files"
                    way = "give the source a 'limit', or write it as JSONL with 'saccade convert'"
                    yield place, ValueError(f"{why}; the rest is not read; {way}")
                    return
                yield place, one
        finally:
            self._sources.append((held, size))

    def _beyond(self) -> int:
        """Bytes of the sources before that take more than RATIO times their files."""
        return sum(taken for taken, size in self._sources if taken > RATIO * size())


@dataclass(slots=True)
class _Counted:
    """The texts and files of images of a source so far that several rows have; each counts once. They are held, so that
    no other object takes the place of one that is gone."""

    texts: dict[Any, Any] = field(default_factory=dict)
    images: dict[Any, Any] = field(default_factory=dict)
    short: dict[str, str] = field(default_factory=dict)
    """Text -> the one that rows share; the first `MOST_SHORT`."""
    fresh: int = 0
    """Bytes of the short texts since the last count."""

    def new_bytes(self, value: Any) -> int:
        """Bytes of an object with all that it holds, but for what counted before."""
        size, left, here = self.fresh, [value], set[int]()
        self.fresh = 0
        while left:  # nested however deeply
            one = left.pop()
            if isinstance(one, str | bytes):
                size += 0 if id(one) in here or self._known(one) else sys.getsizeof(one)
                here.add(id(one))
                continue
            size += sys.getsizeof(one)
            if isinstance(one, Mapping):
                left += (*one, *one.values())
            elif isinstance(one, list | tuple):
                left += one
            else:
                left += [getattr(one, name) for name in getattr(one, "__slots__", ())]  # of our dataclasses
        return size

    def _known(self, one: str | bytes) -> bool:
        if isinstance(one, str) and len(one) <= _LONG:
            return self.short.get(one) is one
        key, counted = (id(one), self.texts) if isinstance(one, str) else (one, self.images)
        known = key in counted
        if len(one) > _LONG and not known:
            counted[key] = one
        return known

    def shared(self, sample: Sample) -> Sample:
        """The sample with what it has in common with those before."""
        return replace(
            sample,
            images=tuple(map(self._one, sample.images)),
            question=self._one(sample.question),
            answer=self._each(sample.answer),
            task=self._one(sample.task),
            meta={key: value if key == "place" else self._each(value) for key, value in sample.meta.items()},
        )

    def _each(self, value: Any) -> Any:
        """A list stays as it is where it shares nothing: samples may share the whole of it."""
        if type(value) is not list:
            return self._one(value)
        shared = [self._one(one) for one in value]
        return value if all(map(operator.is_, shared, value)) else shared

    def _one(self, value: Any) -> Any:
        if isinstance(value, bytes):
            return self.images.get(value, value)
        if not isinstance(value, str) or len(value) > _LONG:
            return value
        known = self.short.get(value)
        if known is None and len(self.short) < MOST_SHORT:
            self.short[value] = value
            self.fresh += sys.getsizeof(value)
        return value if known is None else known
