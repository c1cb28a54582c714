"""Box rewards.

A reply's boxes are compared in the reply's frame, with the gold rounded to that frame: IoU does not change when an axis
is scaled, so the rounding of a frame costs nothing and the gold scores exactly 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from saccade import grading, parsing
from saccade.geometry import COCO_THRESHOLDS, from_original, iou
from saccade.rewards.answers import MISSING, answer_of
from saccade.rewards.options import Count, NotNegative, Share, Thresholds, Where
from saccade.types import Box, Completion, Frame, Sample, Score

if TYPE_CHECKING:
    from saccade.parsing import LabelledBox

# ------------------------------------------------------------------------------------------------------------- one box


def rec_iou(completion: Completion, sample: Sample, threshold: Share = 0.0, where: Where = "tag") -> Score:
    """IoU of the answer's one box with the gold box; 0 up to `threshold`.

    Several boxes are not an answer, so extra boxes are not free.

    Formula: IoU if IoU > threshold, else 0.
    Source: VLM-R1 (arXiv 2504.07615), REC accuracy, soft.
    """
    answer = answer_of(completion, where)
    if answer is None:
        return Score(0.0, MISSING[where])
    overlap, reason = box_iou(answer, sample, completion.frames)
    return Score(overlap if overlap > threshold else 0.0, reason)


def rec_iou_at(completion: Completion, sample: Sample, threshold: Share = 0.5, where: Where = "tag") -> Score:
    """1 when the IoU of the answer's one box is strictly above `threshold`, as in accuracy@0.5.

    Formula: 1 if IoU > threshold, else 0.
    Source: RefCOCO's accuracy@0.5, as VLM-R1 evaluates.
    """
    score = rec_iou(completion, sample, where=where)
    return Score(float(score.value > threshold), score.reason if score.value <= threshold else None)


def rec_iou_dynamic(
    completion: Completion,
    sample: Sample,
    start: Share = 0.5,
    end: Share = 0.9,
    over: Count = 100,
    where: Where = "tag",
) -> Score:
    """IoU above a threshold that rises during training, so that loose boxes earn something at first and nothing later.

    The step is `completion.weights_version`, the number of updates of the weights that generated the reply.

    Formula: IoU if IoU > start + (end - start) * min(1, step / over), else 0.
    Source: the progressive thresholds of Griffon's Vision-R1 (arXiv 2503.18013), made linear.
    """
    threshold = start + (end - start) * min(1.0, completion.weights_version / over)
    return rec_iou(completion, sample, threshold, where)


def box_iou(answer: str, sample: Sample, frames: Sequence[Frame]) -> tuple[float, str | None]:
    """IoU of the answer's one box with the gold, and the reason if it is below 1."""
    entries = parsing.read_entries(answer)
    if len(entries) > 1:
        return 0.0, "more than one box"
    box = entries[0][0] if entries else None
    if box is None:
        return 0.0, "no box"
    overlap = iou(box, from_original(gold_box(sample), frame_of(sample, frames)))
    return overlap, None if overlap == 1.0 else f"iou {overlap:.2f}"


# -------------------------------------------------------------------------------------------------------------- lists


def detection_map(
    completion: Completion, sample: Sample, thresholds: Thresholds = COCO_THRESHOLDS, where: Where = "tag"
) -> Score:
    """COCO average precision over `thresholds`. Boxes with labels that have no gold, and boxes after the right ones,
    are free.

    Formula: mean over labels and thresholds of the area under the interpolated precision-recall curve.
    Source: VLM-R1 (arXiv 2504.07615), map; COCO (arXiv 1405.0312).
    """
    found = _detections(completion, where)
    if isinstance(found, Score):
        return found
    precision = grading.average_precision(found, gold_boxes(sample, completion.frames), thresholds)
    return Score(precision, None if precision == 1.0 else f"map {precision:.2f}")


def detection_ap50(completion: Completion, sample: Sample, where: Where = "tag") -> Score:
    """As `detection_map`, only at IoU 0.5.

    Formula: AP at IoU 0.5.
    Source: VLM-R1 (arXiv 2504.07615), od_ap50.
    """
    return detection_map(completion, sample, (0.5,), where)


def detection_od_length(
    completion: Completion, sample: Sample, thresholds: Thresholds = COCO_THRESHOLDS, where: Where = "tag"
) -> Score:
    """Average precision times a penalty factor for excess boxes.

    Every answered box counts in n_pred, including absent labels and unreadable boxes. 1 when both lists are empty, 0
    when one is.

    Formula: min(1, n_gold / n_pred) * mAP@[.5:.95].
    Source: VLM-R1 (arXiv 2504.07615), odLength.
    """
    found = _detections(completion, where)
    if isinstance(found, Score):
        return found
    gold = gold_boxes(sample, completion.frames)
    share = min(1.0, len(gold) / len(found)) if found else 1.0
    score = share * grading.average_precision(found, gold, thresholds)
    return Score(score, None if score == 1.0 else f"{len(found)} boxes for {len(gold)}, {score:.2f}")


def detection_weighted_sum(
    completion: Completion,
    sample: Sample,
    threshold: Share = 0.5,
    position: NotNegative = 0.7,
    label: NotNegative = 0.0,
    completeness: NotNegative = 0.3,
    where: Where = "tag",
) -> Score:
    """Weighted sum of position, label and completeness. Boxes are matched greedily by IoU, from `threshold` upward.

    Boxes are matched only within their label, so a wrong label does not use up a gold box; for position and label an
    extra box costs as much as a missed one. 1 when both lists are empty, 0 when one is.

    Formula: (0.7 * sum of IoU / n + 0 * pairs / n + 0.3 * (1 - (missed / n_gold + spurious / n_pred) / 2)) / 1.0, with
    n = max(n_gold, n_pred) and the weights as options.
    Source: VLM-R1 (arXiv 2504.07615), weighted_sum, which divides by n_gold and matches boxes of different labels.
    """
    found = _detections(completion, where)
    if isinstance(found, Score):
        return found
    gold = gold_boxes(sample, completion.frames)
    if not found or not gold:
        return Score(float(not found and not gold), None if not found and not gold else "one list is empty")
    pairs, most = grading.match(found, gold, threshold), max(len(found), len(gold))
    complete = 1 - (1 - len(pairs) / len(gold)) / 2 - (1 - len(pairs) / len(found)) / 2
    parts = (position * sum(p.iou for p in pairs) / most, label * len(pairs) / most, completeness * complete)
    score = sum(parts) / (position + label + completeness)
    score = 1.0 if score > 1 - 1e-12 else score  # round-off of the weights
    return Score(score, None if score == 1.0 else f"{len(pairs)} of {len(gold)} boxes, {score:.2f}")


def check_weighted_sum(position: float, label: float, completeness: float) -> None:
    """ValueError when all weights are 0."""
    if not position + label + completeness > 0:
        raise ValueError("detection_weighted_sum: got three weights of 0, expected one above 0")


def detection_f1(completion: Completion, sample: Sample, threshold: Share = 0.5, where: Where = "tag") -> Score:
    """F1 of the labeled boxes at IoU `threshold`; 1 only when every gold box is found and nothing else.

    Formula: 2 * pairs / (n_gold + n_pred).
    Source: the greedy precision and recall of VLM-R1 (arXiv 2504.07615), as one figure.
    """
    found = _detections(completion, where)
    if isinstance(found, Score):
        return found
    score = grading.f1(found, gold_boxes(sample, completion.frames), threshold)
    return Score(score, None if score == 1.0 else f"f1 {score:.2f}")


def _detections(completion: Completion, where: Where) -> list[LabelledBox] | Score:
    answer = answer_of(completion, where)
    found = None if answer is None else answered_boxes(answer)
    if found is None:
        return Score(0.0, MISSING[where] if answer is None else "no list of boxes")
    return found


def answered_boxes(answer: str) -> list[LabelledBox] | None:
    """The boxes of an answer with normalized labels; None when it is not a list of boxes.

    Entries whose box cannot be read count as wrong: their box is `NOWHERE`.
    """
    entries = parsing.read_entries(answer)
    if all(box is None for box, _ in entries):
        return parsing.read_detections(answer)
    return [parsing.LabelledBox(parsing.NOWHERE if box is None else box, grading.fold(label)) for box, label in entries]


# --------------------------------------------------------------------------------------------------------------- gold


def frame_of(sample: Sample, frames: Sequence[Frame]) -> Frame:
    """The frame of the image that a sample's boxes refer to: `Sample.box_image`."""
    index = sample.box_image
    if not 0 <= index < len(frames):
        raise ValueError(
            f"sample {sample.id!r} asks for boxes in image {index}, but the completion has {len(frames)} frames; "
            "expected one per image of the prompt"
        )
    return frames[index]


def gold_box(sample: Sample) -> Box:
    """The gold box of a sample, in pixels of the original image."""
    return _four(sample.answer, sample)


def gold_boxes(sample: Sample, frames: Sequence[Frame]) -> list[LabelledBox]:
    """The gold list of a sample in its frame's coordinates, with normalized labels."""
    frame = frame_of(sample, frames)
    return [parsing.LabelledBox(from_original(item.box, frame), grading.fold(item.label)) for item in gold_list(sample)]


def gold_list(sample: Sample) -> list[LabelledBox]:
    """The gold list of a sample, in pixels of the original image."""
    if not isinstance(sample.answer, list | tuple) or not all(isinstance(item, dict) for item in sample.answer):
        expected = 'expected a list of {"bbox_2d", "label"}'
        raise ValueError(f"sample {sample.id!r}: got answer {sample.answer!r}, {expected}")
    return [
        parsing.LabelledBox(_four(item.get("bbox_2d"), sample), str(item.get("label", ""))) for item in sample.answer
    ]


def _four(value: Any, sample: Sample) -> Box:
    try:
        x1, y1, x2, y2 = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ValueError(f"sample {sample.id!r}: got box {value!r}, expected four numbers [x1, y1, x2, y2]") from None
    return x1, y1, x2, y2
