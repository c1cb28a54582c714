"""Scoring all replies of a step: rules one by one, users' own rewards in batches."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from saccade.rewards.rubric import Part, Rubric, in_range, score_part
from saccade.types import Completion, Sample, Score

log = logging.getLogger(__name__)

Item = tuple[Callable[[Completion, Sample], Score], Completion, Sample]
"""A `Rubric` (or any function), the reply, its sample."""


@runtime_checkable
class ScoresMany(Protocol):
    """A slow reward that can score many replies at once."""

    def score(self, jobs: Sequence[tuple[Completion, Sample]]) -> list[Score]:
        """The scores, in order; it never raises."""
        ...


def score_all(items: Sequence[Item]) -> list[Score]:
    """The score of each item, in order, equal to calling the rubrics one by one.

    Rewards that can score many at once get all their replies in one call, and several such rewards run concurrently.
    An exception or a nonfinite total masks its reply and is logged.
    """
    slow: dict[int, tuple[ScoresMany, list[tuple[int, Part]]]] = {}
    scores: list[dict[str, Score]] = [{} for _ in items]
    masked: dict[int, Score] = {}
    for i, (rubric, completion, sample) in enumerate(items):
        if not isinstance(rubric, Rubric) or rubric.excludes(completion):
            continue
        try:
            parts = rubric.parts_for(sample)
        except ValueError as error:
            masked[i] = Score(0.0, masked=str(error))
            continue
        for part in parts:
            if isinstance(part.function, ScoresMany):
                slow.setdefault(id(part.function), (part.function, []))[1].append((i, part))
            else:
                scores[i][part.name] = score_part(part, completion, sample)
    for (i, part), score in _many(items, list(slow.values())):
        scores[i][part.name] = in_range(part, score)
    return [masked[i] if i in masked else _total(item, scores[i]) for i, item in enumerate(items)]


def _total(item: Item, scores: dict[str, Score]) -> Score:
    rubric, completion, sample = item
    try:
        if isinstance(rubric, Rubric):
            result = rubric.combine(completion, {part.name: scores[part.name] for part in rubric.parts if scores})
        else:
            result = rubric(completion, sample)
    except Exception as error:
        log.exception("scoring a reply to sample %s failed; the rollout is masked", sample.id)
        return Score(0.0, masked=f"{type(error).__name__}: {error}")
    if result.masked is None and not math.isfinite(result.value):
        log.error("the reward of a reply to sample %s is %s; the rollout is masked", sample.id, result.value)
        return Score(0.0, parts=result.parts, reasons=result.reasons, masked=f"the reward is {result.value}")
    return result


def _many(
    items: Sequence[Item], slow: Sequence[tuple[ScoresMany, list[tuple[int, Part]]]]
) -> list[tuple[tuple[int, Part], Score]]:
    """Every reply scored by a slow reward, with its score."""
    if not slow:
        return []
    with ThreadPoolExecutor(len(slow)) as threads:
        runs = [threads.submit(reward.score, [items[i][1:] for i, _ in jobs]) for reward, jobs in slow]
        found: list[tuple[tuple[int, Part], Score]] = []
        for run, (_, jobs) in zip(runs, slow, strict=True):
            found += zip(jobs, run.result(), strict=True)
    return found
