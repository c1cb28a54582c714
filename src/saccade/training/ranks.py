"""The processes of a run. Everything that they must agree on goes through `Ranks`; with one process there is nothing to
exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of the run. Only one process is supported today: every call returns what it was
    given."""

    rank: int = 0
    size: int = 1

    def sum(self, value: float) -> float:
        """The sum over all processes: token counts, losses."""
        return value

    def max(self, value: int) -> int:
        """The largest of all processes: how many passes each must make."""
        return value

    def broadcast(self, value: T) -> T:
        """What the first process has: decisions that must not differ."""
        return value


ONE = Ranks()
