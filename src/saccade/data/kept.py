"""What the rows of a source take in memory, for those who keep all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

RATIO, MOST = 32, 256 << 20
"""Times their files that rows may take, and bytes that they may take in any case. In JSON questions take 5 times their
bytes, lists of boxes 12 times, the shortest rows 20 times."""
_LONG = 256
_One = TypeVar("_One")


def kept(found: Iterable[tuple[str, _One]], size: Callable[[], int]) -> Iterator[tuple[str, _One | ValueError]]:
    """The rows or samples with their places: a ValueError in place of the rest where they take more than MOST bytes and
    RATIO times `size()`, the bytes of their files."""
    held, most, seen = 0, MOST, set[int]()
    for place, one in found:
        held += 0 if isinstance(one, ValueError) else _bytes(one, seen)
        if held > most and held > (most := max(MOST, RATIO * size())):
            why = f"the rows up to here take {held >> 20:,} MB of memory, more than {RATIO} times their files"
            way = "give the source a 'limit', or write it as JSONL with 'saccade convert'"
            yield place, ValueError(f"{why}; the rest is not read; {way}")
            return
        yield place, one


def _bytes(value: Any, seen: set[int]) -> int:
    """Bytes of an object with all that it holds; of texts and files of images that several rows share, once."""
    if isinstance(value, str | bytes):
        if len(value) <= _LONG:
            return sys.getsizeof(value)
        known = id(value) in seen
        seen.add(id(value))
        return 0 if known else sys.getsizeof(value)
    if isinstance(value, Mapping):
        inner = [*value, *value.values()]
    elif isinstance(value, list | tuple):
        inner = list(value)
    else:
        inner = [getattr(value, name) for name in getattr(value, "__slots__", ())]  # of our dataclasses
    return sys.getsizeof(value) + sum([_bytes(one, seen) for one in inner])
