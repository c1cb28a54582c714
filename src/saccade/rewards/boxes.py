"""Rewards of boxes.

A reply's boxes are compared in the frame that it speaks in, with the gold as that frame can write it: IoU does not
change when an axis is scaled, and so the rounding of a frame costs nobody anything and the gold scores exactly 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saccade.geometry import from_original, iou
from saccade.grading.answers import fold
from saccade.grading.detection import COCO_THRESHOLDS, average_precision, f1
from saccade.parsing import LabelledBox, read_boxes, read_detections, read_reply
from saccade.rewards.answers import NO_ANSWER
from saccade.types import Box, Completion, Frame, Sample, Score

# ------------------------------------------------------------------------------------------------------------- one box


def rec_iou(completion: Completion, sample: Sample, threshold: float = 0.0) -> Score:
    """IoU of the one box answered with the gold box (VLM-R1's REC accuracy, soft); 0 up to `threshold`.

    More than one box is no answer: boxes beside the first are not free.
    """
    answer = read_reply(completion.text).answer
    if answer is None:
        return Score(0.0, NO_ANSWER)
    overlap, reason = box_iou(answer, sample, completion.frames)
    return Score(overlap if overlap > threshold else 0.0, reason)


def rec_iou_at(completion: Completion, sample: Sample, threshold: float = 0.5) -> Score:
    """1 when the IoU of the one box answered is above `threshold` (strictly, as accuracy@0.5 is counted), else 0."""
    score = rec_iou(completion, sample)
    return Score(float(score.value > threshold), score.reason if score.value <= threshold else None)


def box_iou(answer: str, sample: Sample, frames: Sequence[Frame]) -> tuple[float, str | None]:
    """IoU of the answer's one box with the gold, and why it is not 1."""
    found = read_boxes(answer)
    if len(found) != 1:
        return 0.0, "no box" if not found else "more than one box"
    overlap = iou(found[0].box, from_original(gold_box(sample), frame_of(sample, frames)))
    return overlap, None if overlap == 1.0 else f"iou {overlap:.2f}"


# -------------------------------------------------------------------------------------------------------------- lists


def detection_map(completion: Completion, sample: Sample, thresholds: Sequence[float] = COCO_THRESHOLDS) -> Score:
    """COCO average precision over `thresholds` (VLM-R1's `map`); boxes of labels without gold cost nothing here."""
    found = _detections(completion, sample)
    if isinstance(found, Score):
        return found
    precision = average_precision(found, gold_boxes(sample, completion.frames), thresholds)
    return Score(precision, None if precision == 1.0 else f"map {precision:.2f}")


def detection_od_length(completion: Completion, sample: Sample, thresholds: Sequence[float] = COCO_THRESHOLDS) -> Score:
    """min(1, n_gold / n_pred) x mAP@[.5:.95] (odLength, VLM-R1, arXiv 2504.07615).

    Every box answered counts in n_pred: those of absent labels and those that cannot be read too. 1 when both lists are
    empty, 0 when one is.
    """
    found = _detections(completion, sample)
    if isinstance(found, Score):
        return found
    gold = gold_boxes(sample, completion.frames)
    share = min(1.0, len(gold) / len(found)) if found else 1.0
    score = share * average_precision(found, gold, thresholds)
    return Score(score, None if score == 1.0 else f"{len(found)} boxes for {len(gold)}, {score:.2f}")


def detection_f1(completion: Completion, sample: Sample, threshold: float = 0.5) -> Score:
    """F1 of the boxes at IoU `threshold`, labels counted; 1 only when every gold box is found and nothing else."""
    found = _detections(completion, sample)
    if isinstance(found, Score):
        return found
    score = f1(found, gold_boxes(sample, completion.frames), threshold)
    return Score(score, None if score == 1.0 else f"f1 {score:.2f}")


def _detections(completion: Completion, sample: Sample) -> list[LabelledBox] | Score:
    answer = read_reply(completion.text).answer
    found = None if answer is None else answered_boxes(answer)
    if found is None:
        return Score(0.0, NO_ANSWER if answer is None else "no list of boxes")
    return found


def answered_boxes(answer: str) -> list[LabelledBox] | None:
    """The boxes of an answer with labels as compared; None when it is no list of boxes."""
    found = read_detections(answer)
    return None if found is None else [LabelledBox(item.box, fold(item.label)) for item in found]


# --------------------------------------------------------------------------------------------------------------- gold


def frame_of(sample: Sample, frames: Sequence[Frame]) -> Frame:
    """The frame of the image that the boxes of a sample lie in: the first, or `meta["image_index"]`."""
    index = int(sample.meta.get("image_index", 0))
    if not 0 <= index < len(frames):
        raise ValueError(
            f"sample {sample.id!r} asks for boxes in image {index}, but the completion carries {len(frames)} frames; "
            "expected one per image of the prompt"
        )
    return frames[index]


def gold_box(sample: Sample) -> Box:
    """The gold box of a sample, in pixels of the original image."""
    return _four(sample.answer, sample)


def gold_boxes(sample: Sample, frames: Sequence[Frame]) -> list[LabelledBox]:
    """The gold list of a sample as its frame writes it, labels as compared."""
    frame = frame_of(sample, frames)
    return [LabelledBox(from_original(item.box, frame), fold(item.label)) for item in gold_list(sample)]


def gold_list(sample: Sample) -> list[LabelledBox]:
    """The gold list of a sample, in pixels of the original image."""
    if not isinstance(sample.answer, list | tuple) or not all(isinstance(item, dict) for item in sample.answer):
        expected = 'expected a list of {"bbox_2d", "label"}'
        raise ValueError(f"sample {sample.id!r}: got answer {sample.answer!r}, {expected}")
    return [LabelledBox(_four(item.get("bbox_2d"), sample), str(item.get("label", ""))) for item in sample.answer]


def _four(value: Any, sample: Sample) -> Box:
    try:
        x1, y1, x2, y2 = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ValueError(f"sample {sample.id!r}: got box {value!r}, expected four numbers [x1, y1, x2, y2]") from None
    return x1, y1, x2, y2
