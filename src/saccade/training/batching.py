"""Micro-batches by token budget, balanced by what siblings really cost. How a step is cut never changes its gradient.

The cost of a row is counted in tokens of the language model: a prompt once and its replies after it where siblings
share it, the prompt again for each reply where they do not. A trained vision tower adds its patches, in units of tokens
(`vision_cost`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Cost = Callable[[int, Sequence[int]], int]
"""(cost of the prompt, tokens of its replies) -> cost of a row."""


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt with some of its replies; they share a forward pass."""

    prompt: int
    """Which prompt of the step."""
    replies: tuple[int, ...]
    """Which of its replies."""
    cost: int


def shared_cost(prompt: int, replies: Sequence[int]) -> int:
    """`[prompt | reply | ... | reply]`."""
    return prompt + sum(replies)


def repeated_cost(prompt: int, replies: Sequence[int]) -> int:
    """A padded batch of `[prompt | reply]`."""
    return len(replies) * (prompt + max(replies, default=0))


def rows(
    prompt: int, prompt_cost: int, reply_lengths: Sequence[tuple[int, int]], budget: int, cost: Cost = shared_cost
) -> list[Row]:
    """The replies of one prompt, (index, tokens) each, in as few rows of at most `budget` as their order allows.

    Normally one row. A group too long for the budget is cut, and each piece repeats the prompt: nothing is truncated. A
    reply that is too long by itself gets a row of its own.
    """
    done: list[Row] = []
    members: list[tuple[int, int]] = []

    def close() -> None:
        done.append(Row(prompt, tuple(i for i, _ in members), cost(prompt_cost, [n for _, n in members])))

    for one in reply_lengths:
        if members and cost(prompt_cost, [n for _, n in (*members, one)]) > budget:
            close()
            members = []
        members.append(one)
    if members:
        close()
    return done


def micro_batches(all_rows: Sequence[Row], budget: int) -> list[list[Row]]:
    """As few batches of at most `budget` as can be found, of nearly equal cost; one row always fits.

    The longest rows go first, each to the lightest batch. Batches of equal cost keep the peak of memory low and, spread
    over processes, let none wait.
    """
    ordered = sorted(all_rows, key=lambda row: (-row.cost, row.prompt, row.replies))
    count = max(1, math.ceil(sum(row.cost for row in ordered) / budget))
    while True:
        batches: list[list[Row]] = [[] for _ in range(count)]
        loads = [0] * count
        for row in ordered:
            lightest = loads.index(min(loads))
            batches[lightest].append(row)
            loads[lightest] += row.cost
        fits = all(load <= budget or len(batch) == 1 for load, batch in zip(loads, batches, strict=True))
        if fits or count >= len(ordered):
            found = [sorted(batch, key=lambda row: (row.prompt, row.replies)) for batch in batches if batch]
            return sorted(found, key=lambda batch: (batch[0].prompt, batch[0].replies))
        count += 1
