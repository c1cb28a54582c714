"""Micro-batches by token budget, balanced by what siblings actually cost. How a step is cut never changes its gradient.

The cost of a row is counted in tokens of the language model: a prompt once and its replies after it where siblings
share it, the prompt again for each reply where they do not. A trained vision encoder adds its patches, in units of
tokens (`vision_cost`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Cost = Callable[[int, Sequence[int]], int]
"""(cost of the prompt, tokens of its replies) -> cost of a row."""


@dataclass(frozen=True, slots=True)
class PackPlan:
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
) -> list[PackPlan]:
    """The replies of one prompt, (index, tokens) each, in as few rows of at most `budget` as their order allows.

    Normally one row. A group too long for the budget is cut, and each piece repeats the prompt: nothing is truncated. A
    reply that exceeds the budget by itself gets its own row.
    """
    done: list[PackPlan] = []
    members: list[tuple[int, int]] = []

    def close() -> None:
        done.append(PackPlan(prompt, tuple(i for i, _ in members), cost(prompt_cost, [n for _, n in members])))

    for one in reply_lengths:
        if members and cost(prompt_cost, [n for _, n in (*members, one)]) > budget:
            close()
            members = []
        members.append(one)
    if members:
        close()
    return done


def micro_batches(all_rows: Sequence[PackPlan], budget: int) -> list[list[PackPlan]]:
    """Few batches of at most `budget`, of nearly equal cost; one row always fits.

    First fit, longest first, says how many batches are needed; then each row goes to the lightest of them, unless
    that would exceed the budget. Batches of equal cost keep the peak of memory low and, spread over processes, keep
    none waiting.
    """
    ordered = sorted(all_rows, key=lambda row: (-row.cost, row.prompt, row.replies))
    fitted = _first_fit(ordered, budget)
    balanced = _lightest_first(ordered, len(fitted))
    fits = all(len(batch) == 1 or sum(row.cost for row in batch) <= budget for batch in balanced)
    found = [sorted(batch, key=_place) for batch in (balanced if fits else fitted) if batch]
    return sorted(found, key=lambda batch: _place(batch[0]))


def _place(row: PackPlan) -> tuple[int, tuple[int, ...]]:
    return row.prompt, row.replies


def _first_fit(ordered: Sequence[PackPlan], budget: int) -> list[list[PackPlan]]:
    batches: list[list[PackPlan]] = []
    room: list[int] = []
    for row in ordered:
        place = next((i for i, left in enumerate(room) if left >= row.cost), None)
        if place is None:
            batches.append([row])
            room.append(budget - row.cost)
        else:
            batches[place].append(row)
            room[place] -= row.cost
    return batches


def _lightest_first(ordered: Sequence[PackPlan], count: int) -> list[list[PackPlan]]:
    batches: list[list[PackPlan]] = [[] for _ in range(count)]
    loads = [(0, i) for i in range(count)]
    for row in ordered:
        load, lightest = heapq.heappop(loads)
        batches[lightest].append(row)
        heapq.heappush(loads, (load + row.cost, lightest))
    return batches
