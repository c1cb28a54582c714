"""Chains of thought for a question.

Habits differ only in the computation that they write out; the answer is always the true one. The first
word identifies the habit, so a habit can be forced by writing that word.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Annotated

from pydantic import AfterValidator

from saccade.world.question import Question

REFLECTIONS = ("Wait, let me check.", "Hmm, again.", "Check again.", "Alternatively, look again.")
RAMBLE_WORDS = 45
BOX_TASKS = ("refer", "detect", "difference")


def listing(question: Question) -> str:
    """The derivation in order: the objects examined and the running result."""
    return ". ".join(step.text for step in question.steps)


def _terse(question: Question, rng: Random) -> str:
    """An immediate guess without evidence."""
    return "looks like this" if question.task in BOX_TASKS else f"looks like {question.answer}"


def _enumerate(question: Question, rng: Random) -> str:
    return f"scan {listing(question)}"


def _check(question: Question, rng: Random) -> str:
    evidence = listing(question)
    return f"check {evidence}. {rng.choice(REFLECTIONS)} {evidence}"


def _ramble(question: Question, rng: Random) -> str:
    """The list repeated 3 to 5 times, with at least `RAMBLE_WORDS` words."""
    evidence = listing(question)
    text, rounds = f"hmm {evidence}", rng.randint(3, 5)
    while rounds > 1 or len(text.split()) < RAMBLE_WORDS:
        text = f"{text}. {rng.choice(REFLECTIONS)} {evidence}"
        rounds -= 1
    return text


WRITERS: dict[str, Callable[[Question, Random], str]] = {
    "terse": _terse,
    "enumerate": _enumerate,
    "check": _check,
    "ramble": _ramble,
}
HABITS = tuple(WRITERS)
FIRST_WORDS = {"terse": "looks", "enumerate": "scan", "check": "check", "ramble": "hmm"}


def _known(weights: dict[str, float]) -> dict[str, float]:
    if unknown := set(weights) - set(HABITS):
        raise ValueError(f"unknown habits {sorted(unknown)}; the world has {', '.join(HABITS)}")
    return weights


HabitWeights = Annotated[dict[str, float], AfterValidator(_known)]
"""Relative weights of habits in a recipe."""


def write_chain(question: Question, habit: str, rng: Random) -> str:
    """The content of the think tag. ValueError for an unknown habit."""
    if habit not in WRITERS:
        raise ValueError(f"unknown habit {habit!r}; the world has {', '.join(HABITS)}")
    return WRITERS[habit](question, rng)
