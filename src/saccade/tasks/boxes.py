"""Tasks whose answer is a location: one box, a point, or a list of labeled boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from saccade.geometry import from_original
from saccade.grading import Verdict
from saccade.grading.detection import f1
from saccade.rewards import PartConfig
from saccade.rewards.boxes import answered_boxes, box_iou, frame_of, gold_box, gold_boxes, gold_list
from saccade.rewards.points import gold_point, point_right
from saccade.tasks.task import Task, rubrics
from saccade.types import Box, Frame, Sample


def as_box(sample: Sample, frames: Sequence[Frame]) -> str:
    """`{"bbox_2d": [x1, y1, x2, y2]}` in the frame of the image that the question refers to."""
    return json.dumps({"bbox_2d": _coordinates(gold_box(sample), frame_of(sample, frames))})


def as_list(sample: Sample, frames: Sequence[Frame]) -> str:
    """`[{"bbox_2d": [..], "label": ".."}, ..]`, in the order of the gold; `[]` when nothing is there."""
    frame = frame_of(sample, frames)
    items = [{"bbox_2d": _coordinates(item.box, frame), "label": item.label} for item in gold_list(sample)]
    return json.dumps(items, ensure_ascii=False)


def _coordinates(box: Box, frame: Frame) -> list[float]:
    return list(from_original(box, frame))


def grade_box(answer: str, sample: Sample, frames: Sequence[Frame]) -> Verdict:
    """Right when the answer's one box has an IoU above 0.5 with the gold."""
    overlap, reason = box_iou(answer, sample, frames)
    return Verdict(overlap > 0.5, "box", reason or "", overlap)


def grade_list(answer: str, sample: Sample, frames: Sequence[Frame]) -> Verdict:
    """Right when at IoU 0.5 every gold box is found with its label and there are no others; the value is F1."""
    found = answered_boxes(answer)
    if found is None:
        return Verdict(False, "boxes", "no list of boxes", 0.0)
    score = f1(found, gold_boxes(sample, frames))
    return Verdict(score == 1.0, "boxes", "" if score == 1.0 else f"f1 {score:.2f}", score)


def as_point(sample: Sample, frames: Sequence[Frame]) -> str:
    """`{"point_2d": [x, y]}`, the center of the gold box, in the frame of the image that the question refers to."""
    return json.dumps({"point_2d": list(gold_point(sample, frame_of(sample, frames)))})


def grade_point(answer: str, sample: Sample, frames: Sequence[Frame]) -> Verdict:
    """Right when the answer's one point is in the gold box."""
    right, reason = point_right(answer, sample, frame_of(sample, frames))
    return Verdict(right, "point", reason or "")


_ONE_BOX = rubrics(PartConfig(name="rec_iou"), PartConfig(name="rec_iou_at"))

BOX_TASKS = (
    Task("refer", "bare", _ONE_BOX, as_box, grade_box),
    Task("difference", "bare", _ONE_BOX, as_box, grade_box),  # the box refers to image meta["image_index"]
    Task("point", "bare", rubrics(PartConfig(name="point_in_box")), as_point, grade_point),
    Task(
        "detect",
        "bare",
        rubrics(PartConfig(name="detection_od_length"), PartConfig(name="detection_f1")),
        as_list,
        grade_list,
    ),
)
