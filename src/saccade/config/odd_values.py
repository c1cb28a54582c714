"""Values of a recipe that fit the type of their key and are mistakes all the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from saccade.config.section import Loc

LARGEST = 2**63 - 1
"""Whole numbers are handed to libraries that keep them in 64 bits."""
LARGEST_FLOAT = 3.4e38
"""Other numbers are those of losses and optimizers, in 32 bits."""


def numbers(data: Any, loc: Loc = ()) -> Iterator[tuple[Loc, str]]:
    """(key, mistake) of numbers that no key takes: beyond 64 or 32 bits, and not a number."""
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from numbers(value, (*loc, key))
    elif isinstance(data, int) and abs(data) > LARGEST:
        yield loc, f"got a whole number of {data.bit_length()} bits, expected one of at most 63"
    elif isinstance(data, float) and math.isnan(data):
        yield loc, "got nan, expected a number"
    elif isinstance(data, float) and LARGEST_FLOAT < abs(data) < math.inf:
        yield loc, f"got {data}, expected a number of at most 32 bits (3.4e38) or .inf"


def swapped(data: Any, value: Any, loc: Loc = ()) -> Iterator[tuple[Loc, str]]:
    """(key, mistake) of booleans that were read as numbers: Python counts True as 1, but `group_size: true` is a
    mistake."""
    if isinstance(data, bool) and not isinstance(value, bool):
        yield loc, f"got {data}, expected a number"
    elif isinstance(data, dict) and isinstance(value, BaseModel):
        for key in data:
            yield from swapped(data[key], getattr(value, key), (*loc, key))
    elif isinstance(data, list) and isinstance(value, list | tuple):
        for i, (item, taken) in enumerate(zip(data, value, strict=False)):
            yield from swapped(item, taken, (*loc, i))
