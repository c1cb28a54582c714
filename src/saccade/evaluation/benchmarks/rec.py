"""Referring expressions: RefCOCO, RefCOCO+, RefCOCOg and LISA-Grounding; one box per expression."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from saccade.evaluation.benchmarks import replies
from saccade.evaluation.benchmarks.benchmark import (
    Benchmark,
    BenchmarkJudge,
    BenchmarkScore,
    Grade,
    Mode,
    OutcomeGroup,
    ParsedReply,
    Place,
    Prompt,
    Statistic,
)
from saccade.evaluation.benchmarks.prompts import template, with_images
from saccade.evaluation.benchmarks.rows import find, sample_at, samples_of
from saccade.evaluation.benchmarks.scoring import flat, mean_of_slices
from saccade.geometry import center, contains, iou, to_original
from saccade.parsing import NOWHERE, read_boxes
from saccade.rewards.vlm_r1 import first_answer
from saccade.types import Box, Sample

VLM_R1_ITEMS, VLM_R1_SEED = 2000, 42
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
_FOUR = re.compile(r"\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)\]")


def loader(names: Sequence[str]) -> Callable[[Place], list[Sample]]:
    """Reads the first of these patterns that is there; each file is a split by its own name."""

    def load(place: Place) -> list[Sample]:
        found = []
        if place.data is None:
            raise ValueError(
                "REC files are not on the hub in this layout; give path=FOLDER with VLM-R1's or Qwen-VL's files"
            )
        for file in find(place, names):
            split = file.stem
            for where, sample in samples_of("refcoco", place.reading(file)):
                meta = {**sample.meta, "slices": {"split": split}}
                found.append(sample_at(where, partial(replace, sample, id=f"{split}/{sample.id}", meta=meta)))
        return found

    return load


def json_prompt(sample: Sample) -> str:
    return with_images(sample, f'{sample.question}\nAnswer with JSON: {{"bbox_2d": [x1, y1, x2, y2]}}.')


def in_pixels(box: Box, reply: ParsedReply) -> Box:
    """A box of the reply as pixels of the first image's original; NOWHERE when it is no finite box."""
    if not reply.frames or not all(map(math.isfinite, box)):
        return NOWHERE
    return to_original(box, reply.frames[0])


def official(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    return _one_box(reply, sample, strict=False)


def strict(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    return _one_box(reply, sample, strict=True)


def _one_box(reply: ParsedReply, sample: Sample, strict: bool) -> Grade:
    """The first box of the answer, or with `strict` its only one."""
    found = [one.box for one in read_boxes(reply.final_text or "")]
    if not found:
        return Grade(False, "no box", value=0.0, detail="no answer" if reply.final_text is None else "")
    boxes = tuple((in_pixels(box, reply), "") for box in found)
    if strict and len(found) > 1:
        return Grade(False, "more than one box", str(found), f"{len(found)} boxes", 0.0, boxes)
    overlap = iou(boxes[0][0], sample.answer)
    right = overlap > 0.5 if strict else overlap >= 0.5
    return Grade(right, "box" if len(found) == 1 else "first box", str(list(found[0])), "", overlap, boxes)


def vlm_r1(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    answer = first_answer(reply.text) or ""
    brace = answer.find("{")
    found = _FOUR.search(answer, brace) if brace >= 0 else None
    if found is None or "}" not in answer[found.end() :]:
        return Grade(False, "no box in braces in the first answer block", value=0.0, boxes=((NOWHERE, ""),))
    written = tuple(float(v) for v in found.groups())
    x1, y1, x2, y2 = written
    box = in_pixels((x1, y1, x2, y2), reply)
    overlap = vlm_r1_iou(box, sample.answer)
    return Grade(overlap > 0.5, "box in braces", str(list(written)), "", overlap, ((box, ""),))


def vlm_r1_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU as VLM-R1's evaluation computes it: an overlap of at most one pixel in width or height is none."""
    left, top, right, bottom = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]) - 1, min(a[3], b[3]) - 1
    if left >= right or top >= bottom:
        return 0.0
    shared = (right - left + 1) * (bottom - top + 1)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def first_shuffled(samples: list[Sample]) -> list[Sample]:
    """VLM-R1's items: of each split the first 2,000 after a shuffle with seed 42."""
    splits: dict[str, list[Sample]] = {}
    for sample in samples:
        splits.setdefault(sample.meta["slices"]["split"], []).append(sample)
    for some in splits.values():
        random.Random(VLM_R1_SEED).shuffle(some)
    return [sample for some in splits.values() for sample in some[:VLM_R1_ITEMS]]


# -------------------------------------------------------------------------------------------------------------- scores


def mean_iou(groups: Sequence[OutcomeGroup]) -> float | None:
    outcomes = flat(groups)
    return sum(one.soft or 0.0 for one in outcomes) / len(outcomes) if outcomes else None


def accuracy_at(threshold: float) -> Statistic:
    """Share of first attempts with IoU of at least a threshold."""

    def statistic(groups: Sequence[OutcomeGroup]) -> float | None:
        outcomes = flat(groups)
        return sum((one.soft or 0.0) >= threshold for one in outcomes) / len(outcomes) if outcomes else None

    return statistic


def center_inside(groups: Sequence[OutcomeGroup]) -> float | None:
    """Share of first attempts whose box has its center in the gold box."""
    outcomes = flat(groups)
    if not outcomes:
        return None
    hits = [
        bool(one.boxes) and one.boxes[0][0] != NOWHERE and contains(one.gold, center(one.boxes[0][0]))
        for one in outcomes
    ]
    return sum(hits) / len(hits)


MODES = {
    "official": Mode(
        "official",
        "Precision@1 at IoU 0.5 as usual for RefCOCO (VLMEvalKit)",
        (
            replies.THOUGHT,
            "The first box of the answer, in any of the notations that are read, put into pixels of the original image "
            "by the model family's frame. A family's frame is never guessed from the numbers.",
            "Right when IoU >= 0.5. No box, an inverted box or one without area is wrong.",
            "One number over several files: the unweighted mean of their accuracies.",
        ),
        official,
        (
            "VLMEvalKit takes any box up to 1000 as normalized, lmms-eval the reading that is nearer to the gold; here "
            "the frame is the family's, or server.frame.",
        ),
    ),
    "vlm_r1": Mode(
        "vlm_r1",
        "om-ai-lab/VLM-R1, src/eval/test_rec_r1.py",
        (
            "Of each file the first 2,000 items after a shuffle with seed 42.",
            "The first <answer> block of the whole reply, thought included.",
            "In it the first [x1, y1, x2, y2] of whole numbers without sign inside braces; no such box is wrong.",
            "Put into pixels of the original image; IoU > 0.5, strictly; overlaps of at most one pixel count as none.",
        ),
        vlm_r1,
        (
            "The script generates up to 256 tokens greedily: set decoding.max_new_tokens=256 for the same.",
            "The script scales by the processor's grid whatever the family; here the family's frame is used, which is "
            "the same for Qwen2.5-VL.",
        ),
        select=first_shuffled,
    ),
    "strict": Mode(
        "strict",
        "this project's graders",
        (
            replies.THOUGHT,
            "The only box of the answer, in the family's frame; more than one box is wrong. IoU > 0.5, strictly.",
        ),
        strict,
        reason="this project's own",
    ),
}
LAYOUT = (
    "VLM-R1's JSON (image, problem, solution: xyxy in the original image), Qwen-VL's or InternVL's JSONL (image, sent, "
    "bbox: xyxy), or the hub's rows (image, answer: expressions, bbox: xywh). A folder may hold one file per split; "
    "image names are relative to `image_folder`, else to the file. Files of this benchmark: "
)


def _benchmark(name: str, title: str, names: tuple[str, ...], notes: tuple[str, ...] = ()) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        layout=LAYOUT + ", ".join(f"`{one}`" for one in names),
        load=loader(names),
        prompts={
            "vlm_r1": template("vlm_r1_json"),
            "json": Prompt("rec.json.v1", json_prompt),
            "bare": template("bare"),
        },
        modes=MODES,
        headline=BenchmarkScore("mean_of_splits", mean_of_slices("split")),
        slices=("split",),
        scores=(
            BenchmarkScore("mean_iou", mean_iou),
            *(BenchmarkScore(f"accuracy_at_{threshold}", accuracy_at(threshold)) for threshold in THRESHOLDS),
            BenchmarkScore("center_inside", center_inside),
        ),
        notes=("Images of COCO train2014 are in the training data of many models.", *notes),
    )


BENCHMARKS = (
    _benchmark("refcoco", "RefCOCO", ("refcoco_val.json*", "refcoco_test*.json*", "refcoco_*.parquet")),
    _benchmark("refcoco_plus", "RefCOCO+", ("refcocop_val.json*", "refcoco+_*.json*", "refcocoplus_*.parquet")),
    _benchmark("refcocog", "RefCOCOg", ("refcocog_val.json*", "refcocog_test*.json*", "refcocog_*.parquet")),
    _benchmark(
        "refcoco_all",
        "RefCOCO, RefCOCO+ and RefCOCOg together",
        ("refcoco*.json*", "refcoco*.parquet"),
        ("Eight files give the usual mean of eight: val, testA, testB of RefCOCO and RefCOCO+, val and test of g.",),
    ),
    _benchmark(
        "lisa_grounding",
        "LISA-Grounding",
        ("lisa_test.json*", "lisa*.json*"),
        ("VLM-R1's set out of domain: masks of ReasonSeg turned into boxes.",),
    ),
)
