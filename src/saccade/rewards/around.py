"""Rewards around another one: what can be said before it is asked, and what is made of its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from saccade.types import Completion, Sample, Score

Inner = Callable[[Completion, Sample], Score]
First = Callable[[Completion, Sample], Score | None]
Then = Callable[[Completion, Sample, Score], Score]
Job = tuple[Completion, Sample]


def around(inner: Inner, first: First, then: Then) -> Inner:
    """A reward that asks `inner` unless `first` has an answer already. Where `inner` scores many replies at once (a
    judge, a user's own), so does this."""

    def one(completion: Completion, sample: Sample) -> Score:
        early = first(completion, sample)
        return early if early is not None else then(completion, sample, inner(completion, sample))

    return Many(one, inner, first, then) if hasattr(inner, "score") else one


class Many:
    """As the function, with `score` for all replies of a step."""

    def __init__(self, one: Inner, inner: Inner, first: First, then: Then) -> None:
        self._one, self._inner, self._first, self._then = one, inner, first, then

    def __call__(self, completion: Completion, sample: Sample) -> Score:
        return self._one(completion, sample)

    def score(self, jobs: Sequence[Job]) -> list[Score]:
        """The scores, in order."""
        early = [self._first(*job) for job in jobs]
        scores_many: Any = self._inner  # `around` saw that it does
        asked = [job for job, said in zip(jobs, early, strict=True) if said is None]
        answers = iter(zip(asked, scores_many.score(asked), strict=True))
        return [said if said is not None else self._made(*next(answers)) for said in early]

    def _made(self, job: Job, answer: Score) -> Score:
        return self._then(*job, answer)
