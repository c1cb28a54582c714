"""Rewards that wrap another reward: a shortcut before it is called, and a step after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from saccade.types import Completion, Sample, Score

Inner = Callable[[Completion, Sample], Score]
Shortcut = Callable[[Completion, Sample], Score | None]
Finish = Callable[[Completion, Sample, Score], Score]
ScoringJob = tuple[Completion, Sample]


def wrap_reward(inner: Inner, shortcut: Shortcut, finish: Finish) -> Inner:
    """A reward that calls `inner` unless `shortcut` returns a score, and passes inner's score through `finish`. Batched
    if `inner` is (a judge, a user's own reward)."""

    def one(completion: Completion, sample: Sample) -> Score:
        early = shortcut(completion, sample)
        return early if early is not None else finish(completion, sample, inner(completion, sample))

    return BatchedWrapper(one, inner, shortcut, finish) if hasattr(inner, "score") else one


class BatchedWrapper:
    """The wrapped reward with `score` for all replies of a step."""

    def __init__(self, one: Inner, inner: Inner, shortcut: Shortcut, finish: Finish) -> None:
        self._one, self._inner, self._shortcut, self._finish = one, inner, shortcut, finish

    def __call__(self, completion: Completion, sample: Sample) -> Score:
        return self._one(completion, sample)

    def score(self, jobs: Sequence[ScoringJob]) -> list[Score]:
        """The scores, in order."""
        early = [self._shortcut(*job) for job in jobs]
        batched: Any = self._inner  # `wrap_reward` checked that it has `score`
        remaining = [job for job, score in zip(jobs, early, strict=True) if score is None]
        inner_scores = iter(zip(remaining, batched.score(remaining), strict=True))
        return [score if score is not None else self._finished(*next(inner_scores)) for score in early]

    def _finished(self, job: ScoringJob, score: Score) -> Score:
        return self._finish(*job, score)
