"""Micro-batches by token budget. A row is one prompt with some of its replies; rows of a micro-batch are padded to the
longest, so rows of like length go together. How a step is cut into micro-batches never changes its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One packed row: `[prompt | reply | ... | reply]`."""

    prompt: int
    """Which prompt of the step."""
    replies: tuple[int, ...]
    """Which of its replies."""
    length: int
    """Tokens of the row."""


def rows(prompt: int, prompt_length: int, reply_lengths: Sequence[tuple[int, int]], budget: int) -> list[Row]:
    """The replies of one prompt, (index, tokens) each, as few rows of at most `budget` tokens as order allows.

    Normally one row. A group too long for the budget is cut, each piece repeating the prompt; a reply that is too long
    by itself gets a row of its own.
    """
    done: list[Row] = []
    members: list[int] = []
    length = prompt_length
    for index, tokens in reply_lengths:
        if members and length + tokens > budget:
            done.append(Row(prompt, tuple(members), length))
            members, length = [], prompt_length
        members.append(index)
        length += tokens
    return [*done, Row(prompt, tuple(members), length)] if members else done


def micro_batches(all_rows: Sequence[Row], budget: int) -> list[list[Row]]:
    """Rows in order of length, as many to a batch as fit: rows x longest row <= budget. One row always fits."""
    batches: list[list[Row]] = []
    for row in sorted(all_rows, key=lambda r: (r.length, r.prompt, r.replies)):
        if batches and (len(batches[-1]) + 1) * row.length <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
