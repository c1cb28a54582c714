"""What the replies of a run do over its steps, read from its rollouts: reflection words, boxes, precision, recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saccade.evaluation.boxes import gold_boxes
from saccade.evaluation.habits import count_words
from saccade.geometry import iou
from saccade.report.pictures import boxes_of
from saccade.runs.files import JsonRow, RunFiles

MATCH = 0.5
"""IoU from which a box counts as found."""


@dataclass(slots=True)
class Counts:
    """Of one step."""

    replies: int = 0
    reflecting: int = 0
    with_gold: int = 0
    boxes: int = 0
    gold: int = 0
    matched: int = 0

    def row(self) -> dict[str, float]:
        found = {"words/reflection": self.reflecting / self.replies}
        if self.with_gold:
            found |= {"boxes/per_reply": self.boxes / self.with_gold, "boxes/gold": self.gold / self.with_gold}
            found |= {"boxes/precision": self.matched / self.boxes} if self.boxes else {}
            found |= {"boxes/recall": self.matched / self.gold}
        return found


def with_behavior(run: RunFiles) -> list[JsonRow]:
    """The run's metrics, each row with what the rollouts of its step show."""
    golds = {str(row["group_id"]): (row["meta"]["image_index"], gold_boxes(row.get("answer"))) for row in _groups(run)}
    steps: dict[int, Counts] = {}
    for row in run.rollouts():
        counts = steps.setdefault(row["step"], Counts())
        counts.replies += 1
        counts.reflecting += bool(count_words(row["text"]))
        image, gold = golds.get(str(row["group_id"]), (0, ()))
        if gold:
            boxes = boxes_of(row, image)
            counts.with_gold += 1
            counts.boxes += len(boxes)
            counts.gold += len(gold)
            counts.matched += matches(boxes, gold)
    return [steps[row["step"]].row() | row if row["step"] in steps else row for row in run.metrics]


def _groups(run: RunFiles) -> list[JsonRow]:
    return [{**row, "meta": {"image_index": 0, **row["meta"]}} for row in run.groups()]


def matches(boxes: Sequence[Sequence[float]], gold: Sequence[Sequence[float]]) -> int:
    """Number of gold boxes that a box of its own overlaps with IoU >= MATCH, taking the best pairs first."""
    if len(boxes) * len(gold) > 10_000:
        boxes = boxes[: 10_000 // len(gold)]
    pairs = sorted(((iou(b, g), i, j) for i, b in enumerate(boxes) for j, g in enumerate(gold)), reverse=True)
    used, found = set[int](), set[int]()
    for overlap, i, j in pairs:
        if overlap >= MATCH and i not in used and j not in found:
            used.add(i)
            found.add(j)
    return len(found)
