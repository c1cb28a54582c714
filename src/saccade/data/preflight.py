"""Preflight: reads a data set once, before a run, and says what is not right with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from saccade.data.images import image_size
from saccade.tasks import TASKS
from saccade.types import Completion, Frame, Sample

FORMAT_AND_ANSWER = "hard"
"""The rubric that gives 1 only when format and answer are both right."""


@dataclass(frozen=True)
class Report:
    """What preflight found; `counts` by kind, `findings` the first of them in words."""

    samples: int
    counts: dict[str, int]
    findings: tuple[str, ...]
    tokens_max: int | None = None
    """Length of the longest prompt, when tokens were counted."""

    @property
    def ok(self) -> bool:
        return not self.counts


def preflight(
    samples: Iterable[Sample],
    count_tokens: Callable[[Sample], int] | None = None,
    budget: int | None = None,
    *,
    keep: int = 20,
) -> Report:
    """Checks ids, images, boxes, golds and, given `count_tokens` and `budget`, the length of prompts. Streams:
    keeps the ids and the first `keep` findings only."""
    seen: set[str] = set()
    counts: Counter[str] = Counter()
    findings: list[str] = []
    number, longest = 0, None
    for number, sample in enumerate(samples, 1):  # noqa: B007
        found = list(_check(sample, seen))
        seen.add(sample.id)
        if count_tokens is not None and not any(kind == "image" for kind, _ in found):
            tokens = count_tokens(sample)
            longest = max(longest or 0, tokens)
            if budget is not None and tokens > budget:
                found.append(("prompt over budget", f"the prompt has {tokens} tokens, expected {budget} at most"))
        counts.update(kind for kind, _ in found)
        findings += [f"{sample.meta.get('place', sample.id)}: {text}" for _, text in found][: keep - len(findings)]
    return Report(number, dict(counts), tuple(findings), longest)


def _check(sample: Sample, seen: set[str]) -> Iterator[tuple[str, str]]:
    """(kind, text) of what is wrong with one sample."""
    if sample.id in seen:
        yield "duplicate id", f"id {sample.id!r} was used before"
    if sample.task not in TASKS:
        yield "task", f"unknown task {sample.task!r}; expected one of {', '.join(TASKS)}"
        return
    try:
        sizes = [image_size(source) for source in sample.images]
    except ValueError as error:
        yield "image", str(error)
        return
    for box in _boxes(sample.answer):
        if not any(0 <= box[0] <= box[2] <= width and 0 <= box[1] <= box[3] <= height for width, height in sizes):
            yield "box outside", f"box {list(box)} is not inside its image {sizes}; expected xyxy in original pixels"
    yield from _check_gold(sample, tuple(Frame("pixels_original", size, size) for size in sizes))


def _check_gold(sample: Sample, frames: tuple[Frame, ...]) -> Iterator[tuple[str, str]]:
    """The law that a gold answer, written as a reply, gets full marks under its own task."""
    task = TASKS[sample.task]
    try:
        reply = task.write_gold(sample, frames)
        score = task.rubric(FORMAT_AND_ANSWER)(Completion(reply, frames=frames), sample)
    except (ValueError, TypeError, KeyError) as error:
        yield "gold", f"the gold {sample.answer!r} cannot be written for task '{sample.task}': {error}"
        return
    if score.value != 1.0:
        why = score.masked or "; ".join(f"{name}: {reason}" for name, reason in score.reasons.items()) or score.reason
        got = f"the gold {sample.answer!r} scores {score.value:g} under its own task '{sample.task}'"
        yield "gold", f"{got}, expected 1 ({why})"


def _boxes(answer: Any) -> Iterator[tuple[float, float, float, float]]:
    """The boxes in an answer: itself, or those of a list of detections."""
    if isinstance(answer, tuple | list) and len(answer) == 4 and all(isinstance(v, int | float) for v in answer):
        yield (answer[0], answer[1], answer[2], answer[3])
    elif isinstance(answer, list):
        for item in answer:
            if isinstance(item, dict) and "bbox_2d" in item:
                yield from _boxes(item["bbox_2d"])
