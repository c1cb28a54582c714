"""What the replies of a step look like: repetition, constant answers, boxes. The alarms of `saccade.runs.alarms` read
these metrics."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean

from saccade.evaluation.boxes import gold_boxes, reply_boxes
from saccade.parsing import read_reply
from saccade.rollout.groups import Group
from saccade.types import Box

FEW = 4
"""Fewest prompts of a task that say something about its most common answer."""
N = 4
"""Words of a repeated sequence."""
GRID = 50
"""Boxes are equal when their corners round to the same point of a grid with this number of cells a side."""


def repetition(text: str) -> float:
    """Share of the sequences of N words that occurred before in the text; 0 for short texts."""
    words = text.split()
    grams = [tuple(words[i : i + N]) for i in range(len(words) - N + 1)]
    return 1.0 - len(set(grams)) / len(grams) if len(grams) > N else 0.0


def reply_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """`replies/repetition`, `answers/top_share|excess` and `boxes/per_reply|gold|copied`, the latter two only where
    there are questions of their kind."""
    replies = [rollout.completion.text for group in groups for rollout in group.rollouts]
    metrics = {"replies/repetition": fmean(float(repetition(text) > 0.5) for text in replies)} if replies else {}
    tasks: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        tasks[group.sample.task].append(group)
    with_boxes = [group for group in groups if gold_boxes(group.sample.answer)]
    others = [found for found in tasks.values() if not gold_boxes(found[0].sample.answer) and len(found) >= FEW]
    if others:
        share, excess = max((_most_common(found) for found in others), key=lambda pair: pair[1])
        metrics |= {"answers/top_share": share, "answers/excess": excess}
    return metrics | _box_metrics(with_boxes)


def _most_common(groups: Sequence[Group]) -> tuple[float, float]:
    """Share of the most common answer among the replies, and by how much it exceeds the share of golds that equal
    it."""
    given = [
        (read_reply(rollout.completion.text).answer or "").strip().lower()
        for group in groups
        for rollout in group.rollouts
    ]
    answers = Counter(one for one in given if one)
    if not answers:
        return 0.0, 0.0
    answer, count = answers.most_common(1)[0]
    share = count / len(given)
    true = fmean(float(str(group.sample.answer).strip().lower() == answer) for group in groups)
    return share, share - true


def _box_metrics(groups: Sequence[Group]) -> dict[str, float]:
    if not groups:
        return {}
    counts, most_common, golds = list[float](), list[object](), list[object]()
    for group in groups:
        image, truth = group.sample.box_image, gold_boxes(group.sample.answer)
        boxes = Counter[object]()
        size = None
        for rollout in group.rollouts:
            frames = rollout.completion.frames
            found = reply_boxes(rollout.completion.text, frames[image]) if image < len(frames) else ()
            counts.append(float(len(found)))
            if found:
                size = frames[image].size_original
                boxes[_cell(found[0], size)] += 1
        if size is not None:
            most_common.append(boxes.most_common(1)[0][0])
            golds.append(_cell(truth[0], size))
    metrics = {"boxes/per_reply": fmean(counts), "boxes/gold": fmean(len(gold_boxes(g.sample.answer)) for g in groups)}
    if len(most_common) >= FEW:
        box, count = Counter(most_common).most_common(1)[0]
        metrics["boxes/copied"] = (count - 1) / (len(groups) - 1) - golds.count(box) / len(golds)
    return metrics


def _cell(box: Box, size: tuple[int, int]) -> tuple[int, ...]:
    return tuple(round(GRID * value / size[i % 2]) for i, value in enumerate(box))
