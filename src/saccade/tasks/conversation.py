"""The turns around a sample's question: the system turn before it, and the later turns of a conversation, of which
supervised fine-tuning learns the replies. RL and evaluation ask the first question only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import overload

from saccade.tasks.templates import IMAGE
from saccade.types import Sample, Turn

SYSTEM, LATER = "system", "turns"
"""Keys of `Sample.meta`."""


def turns_before(sample: Sample, system_prompt: str | None = None) -> tuple[Turn, ...]:
    """The system turn of a prompt, if there is one: the row's own, else the recipe's."""
    own = sample.meta.get(SYSTEM) or ""
    if not isinstance(own, str):
        raise ValueError(f"sample {sample.id!r}: got meta.system {str(own)[:80]!r}, expected a text")
    text = own if own.strip() else system_prompt or ""
    return (Turn("system", text),) if text.strip() else ()


def later_turns(sample: Sample) -> list[Turn]:
    """The turns after the first question and its reply. ValueError for malformed ones, and for more markers in them
    than the sample has images."""
    given = sample.meta.get(LATER) or []
    turns: list[Turn] = []
    for one in given if isinstance(given, list | tuple) else [given]:
        role, text = (one.get("role"), one.get("content")) if isinstance(one, Mapping) else (None, None)
        if (role != "user" and role != "assistant") or not isinstance(text, str):
            expected = "{'role': 'user' or 'assistant', 'content': text}"
            raise ValueError(f"sample {sample.id!r}: got {str(one)[:80]!r} in meta.turns, expected {expected}")
        turns.append(Turn(role, text))
    if (markers := sum(turn.text.count(IMAGE) for turn in turns)) > len(sample.images):
        given = f"{markers} {IMAGE} markers for {len(sample.images)} images"
        raise ValueError(f"sample {sample.id!r}: meta.turns has {given}")
    return turns


def later_replies(sample: Sample) -> int:
    """Replies after the first one, which RL and evaluation do not use."""
    return sum(turn.role == "assistant" for turn in later_turns(sample))


def later_images(sample: Sample) -> int:
    """Images of the later turns; they follow those of the question in `sample.images`."""
    return sum(turn.text.count(IMAGE) for turn in later_turns(sample))


def later_pairs(sample: Sample) -> list[tuple[Turn, Turn]]:
    """The later questions, each with its reply; a question without one is not in them."""
    return [(one, two) for one, two in pairwise(later_turns(sample)) if (one.role, two.role) == ("user", "assistant")]


class History(Sequence[Turn]):
    """The first turns of a conversation. All of its histories share them: with n turns of their own each, n replies
    would hold n * n."""

    __slots__ = ("_stop", "_turns")

    def __init__(self, turns: Sequence[Turn], stop: int) -> None:
        self._turns, self._stop = turns, stop

    def __len__(self) -> int:
        return self._stop

    def __iter__(self) -> Iterator[Turn]:
        return islice(self._turns, self._stop)

    @overload
    def __getitem__(self, at: int) -> Turn: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Turn, ...]: ...
    def __getitem__(self, at: int | slice) -> Turn | tuple[Turn, ...]:
        places = range(self._stop)[at]
        return self._turns[places] if isinstance(places, int) else tuple(self._turns[one] for one in places)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, History) and self._turns is other._turns:
            return self._stop == other._stop
        return isinstance(other, History | tuple) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))
