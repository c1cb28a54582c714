"""What a reader says: a value, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """What was read, by which rule; or None and the reason, in words that can be counted."""

    value: T | None
    how: str = ""
    """The rule that read it: 'letter', 'option text', 'after a cue', 'percent'. Empty without a value."""
    reason: str | None = None
    """Why there is no value: 'nothing', 'several numbers', 'hedged'. None with a value."""


def found(value: T, how: str) -> Reading[T]:
    return Reading(value, how)
