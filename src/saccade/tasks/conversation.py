"""The turns around a sample's question: the system turn before it, and the later turns of a conversation, of which
supervised fine-tuning learns the replies. RL and evaluation ask the first question only."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

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
