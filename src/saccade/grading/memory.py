"""Every (answer, gold, options) is graded once: rewards and metrics of a step share a verdict, as do equal replies."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

from saccade.grading.verdict import Verdict

REMEMBERED = 8_192
"""Verdicts kept per grader, the most recently used."""
LONGEST = 2_000
"""Characters of an answer whose verdict is kept."""


class _Undecided(Exception):
    """Carries a verdict without a decision past the cache: the next try may have one."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


def remembered(grade: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """`grade`, a pure function whose first argument is the answer, with its verdicts kept.

    Not kept: verdicts of None (the machine may have been too busy), and calls with lists or long answers.
    """
    defaults = grade.__defaults__ or ()
    least = grade.__code__.co_argcount - len(defaults)

    @lru_cache(maxsize=REMEMBERED, typed=True)
    def decided(*args: Any, **options: Any) -> Verdict:
        verdict = grade(*args, **options)
        if verdict.right is None:
            raise _Undecided(verdict)
        return verdict

    @wraps(grade)
    def once(*args: Any, **options: Any) -> Verdict:
        unhashable = any(isinstance(one, list | dict) for one in (*args, *options.values()))
        if not args or len(args[0]) > LONGEST or unhashable:
            return grade(*args, **options)
        if not options:
            args += defaults[len(args) - least :]  # so that a default that is given equals one that is not
        try:
            return decided(*args, **options)
        except _Undecided as undecided:
            return undecided.verdict

    for name in ("cache_info", "cache_clear"):
        setattr(once, name, getattr(decided, name))
    return once
