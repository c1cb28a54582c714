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
    """A reward that asks `inner` unless `shortcut` has an answer already. Where `inner` scores many replies at once (a
    judge, a user's own), so does this."""

    def one(completion: Completion, sample: Sample) -> Score:
        early = shortcut(completion, sample)
        return early if early is not None else finish(completion, sample, inner(completion, sample))

    return BatchedWrapper(one, inner, shortcut, finish) if hasattr(inner, "score") else one


class BatchedWrapper:
    """As the function, with `score` for all replies of a step."""

    def __init__(self, one: Inner, inner: Inner, shortcut: Shortcut, finish: Finish) -> None:
        self._one, self._inner, self._shortcut, self._finish = one, inner, shortcut, finish

    def __call__(self, completion: Completion, sample: Sample) -> Score:
        return self._one(completion, sample)

    def score(self, jobs: Sequence[ScoringJob]) -> list[Score]:
        """The scores, in order."""
        early = [self._shortcut(*job) for job in jobs]
        scores_many: Any = self._inner  # `wrap_reward` saw that it does
        asked = [job for job, said in zip(jobs, early, strict=True) if said is None]
        answers = iter(zip(asked, scores_many.score(asked), strict=True))
        return [said if said is not None else self._made(*next(answers)) for said in early]

    def _made(self, job: ScoringJob, answer: Score) -> Score:
        return self._finish(*job, answer)
