"""Detection: COCO-filtered (VLM-R1) and OVDEval; every box has score 1, so their order ranks them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from saccade.data.boxes import read_instances
from saccade.data.instances import Instance, Instances, Picture
from saccade.data.records import Reading, images_of
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
)
from saccade.evaluation.benchmarks.prompts import with_images
from saccade.evaluation.benchmarks.rec import in_pixels
from saccade.evaluation.benchmarks.rows import find, sample_at
from saccade.evaluation.benchmarks.scoring import flat, grouped
from saccade.grading.coco import Detection, Truth, evaluate, greedy_precision_recall, without_duplicates
from saccade.grading.detection import f1
from saccade.parsing import LabelledBox, parse_detections
from saccade.types import Sample

MOST_BOXES = 10
MOST_FOR_INTERVAL = 300
"""Average precision of resamples takes long; sets with more images get no interval for it."""
ASPECTS = {
    "proper_noun": ("celebrity", "logo", "landmark"),
    "attribute": ("color", "material"),
    "position": ("position",),
    "relationship": ("relationship",),
    "negation": ("negation",),
}
"""Aspects of OVDEval and their subtasks; the published average is the mean over aspects."""


def prompt(sample: Sample) -> str:
    """VLM-R1's question, in our own words: find these labels; a fenced JSON list, or None."""
    labels = ", ".join(sample.meta["labels"])
    return with_images(
        sample,
        f"Look closely at the image and find every object of these: {labels}. Answer with a JSON list in a code fence, "
        'each entry {"bbox_2d": [x1, y1, x2, y2], "label": "..."}; answer None when none of them is there.',
    )


def thinking_prompt(sample: Sample) -> str:
    asked = prompt(sample)
    return f"{asked}\nThink in <think> </think> tags first, then answer in <answer> </answer> tags."


# ------------------------------------------------------------------------------------------------------------- grading


def official(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    if reply.final_text is None:
        return replies.NO_ANSWER
    reading = parse_detections(reply.final_text)
    if reading.value is None:
        return Grade(False, f"no list: {reading.reason}", value=0.0)
    boxes = tuple((in_pixels(one.box, reply), one.label) for one in reading.value)
    found = [LabelledBox(box, label) for box, label in boxes]
    gold = [LabelledBox(tuple(one["bbox_2d"]), one["label"]) for one in sample.answer]
    score = f1(found, gold)
    return Grade(score == 1.0, reading.how, f"{len(boxes)} boxes", f"f1 {score:.2f}", score, boxes)


# -------------------------------------------------------------------------------------------------------------- scores


def pairs(groups: Sequence[OutcomeGroup]) -> tuple[list[Detection], list[Truth]]:
    """All boxes of first attempts; the place in the list is the image, so that a resampled one counts again."""
    found, gold = [], []
    for image, one in enumerate(flat(groups)):
        found += [Detection(image, label, box) for box, label in one.boxes]
        for truth in one.gold:
            box = tuple(truth["bbox_2d"])
            gold.append(Truth(image, truth["label"], box, (box[2] - box[0]) * (box[3] - box[1])))
        gold += [Truth(image, t["label"], tuple(t["bbox_2d"]), 0.0, True) for t in one.meta.get("crowds", ())]
    return found, gold


def coco(name: str) -> Callable[[Sequence[OutcomeGroup]], float | None]:
    """One of COCO's figures; None without gold boxes."""

    def statistic(groups: Sequence[OutcomeGroup]) -> float | None:
        value = evaluate(*pairs(groups))[name]
        return None if value < 0 else value

    return statistic


def greedy(which: int) -> Callable[[Sequence[OutcomeGroup]], float | None]:
    return lambda groups: greedy_precision_recall(*pairs(groups))[which]


def mean_f1(groups: Sequence[OutcomeGroup]) -> float | None:
    outcomes = flat(groups)
    return sum(one.soft or 0.0 for one in outcomes) / len(outcomes) if outcomes else None


def boxes_per_image(groups: Sequence[OutcomeGroup]) -> float | None:
    outcomes = flat(groups)
    return sum(len(one.boxes) for one in outcomes) / len(outcomes) if outcomes else None


def duplicates(groups: Sequence[OutcomeGroup]) -> float | None:
    """Share of boxes that repeat a box and label of the same reply."""
    outcomes = flat(groups)
    total = sum(len(one.boxes) for one in outcomes)
    return sum(len(one.boxes) - len(set(one.boxes)) for one in outcomes) / total if total else None


def nms(groups: Sequence[OutcomeGroup]) -> float | None:
    """NMS-AP: COCO's AP after OVDEval's suppression."""
    found, gold = pairs(groups)
    value = evaluate(without_duplicates(found, gold), gold)["AP"]
    return None if value < 0 else value


def subtask(name: str) -> Callable[[Sequence[OutcomeGroup]], float | None]:
    def statistic(groups: Sequence[OutcomeGroup]) -> float | None:
        some = grouped(groups, "subtask").get(name)
        return None if not some else nms(some)

    return statistic


def mean_of_aspects(groups: Sequence[OutcomeGroup]) -> float | None:
    """Mean over the five aspects of the mean over their subtasks; over those that are there."""
    by_task = grouped(groups, "subtask")
    means = []
    for tasks in ASPECTS.values():
        values = [value for name in tasks if name in by_task and (value := nms(by_task[name])) is not None]
        if values:
            means.append(sum(values) / len(values))
    return sum(means) / len(means) if means else None


SHARED = (
    BenchmarkScore("mean_f1", mean_f1),
    BenchmarkScore("boxes_per_image", boxes_per_image, "points"),
    BenchmarkScore("duplicate_boxes", duplicates),
)

# -------------------------------------------------------------------------------------------------------- COCO-filtered


def load_filtered(place: Place) -> list[Sample]:
    if place.data is None:
        raise ValueError("COCO is not read from the hub; give path=instances_val2017.json and image_folder=val2017")
    (file, *_) = find(place, ("instances_val2017.json", "annotations/instances_val2017.json"))
    folder = place.images or next(
        (f for f in (file.parent / "val2017", file.parent.parent / "val2017") if f.is_dir()), file.parent
    )
    reading = place.reading(file, folder)
    held = _instances(reading)
    names = sorted(set(held.labels.values()))
    found = []
    for key, picture in held.pictures.items():
        kept, crowds = _kept(held, key)
        if kept is None or not _in_subset(kept, place.subset or "filtered"):
            continue
        positive = sorted({one["label"] for one in kept})
        meta = {
            "labels": positive if place.subset == "filtered_positive" else names,
            "crowds": crowds,
            "slices": {"boxes": "1" if len(kept) == 1 else "2-10" if len(kept) <= MOST_BOXES else "11+"},
        }
        found.append(sample_at(picture.place, partial(_sample, str(key), picture, reading, kept, meta)))
    return found


def _kept(held: Instances, key: Any) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]]]:
    """Gold boxes and crowds of an image, without categories of more than ten boxes; None when none is left."""
    counts = Counter(one.category for one in held.by_image[key] if not one.crowd)
    kept = [one for one in held.by_image[key] if counts[one.category] <= MOST_BOXES]
    plain = [_labelled(held, one) for one in kept if not one.crowd]
    return (plain or None), [_labelled(held, one) for one in kept if one.crowd]


def _sample(name: str, picture: Picture, reading: Reading, gold: list[dict[str, Any]], meta: dict[str, Any]) -> Sample:
    return Sample(name, images_of(picture.name, reading), "", gold, "detect", meta)


def _labelled(held: Instances, one: Instance) -> dict[str, Any]:
    return {"bbox_2d": list(one.box), "label": held.labels[one.category]}


def _in_subset(kept: Sequence[dict[str, Any]], subset: str) -> bool:
    if subset == "pos_2":
        return max(Counter(one["label"] for one in kept).values()) == 1
    return subset != "pos_3" or len(kept) <= MOST_BOXES


def _instances(reading: Reading) -> Instances:
    """The file, of which nothing may be wrong. ValueError with the line."""
    held = Instances()
    for place, error in read_instances(held, reading):
        raise ValueError(f"{place}: {error}")
    return held


_RULES = (
    replies.THOUGHT,
    "The boxes of the answer in the family's frame, put into pixels of the original image; score 1 each, so that their "
    "order ranks them. A box that cannot be read overlaps nothing and counts.",
    "A reply without a list has no boxes and is counted in `parse_failures`.",
)

COCO_FILTERED = Benchmark(
    name="coco_filtered",
    title="COCO-filtered (VLM-R1)",
    layout="`instances_val2017.json` (or `annotations/instances_val2017.json`) and the images of val2017 beside it or "
    "under `image_folder`.",
    load=load_filtered,
    prompts={
        "list": Prompt("detect.list.v1", prompt),
        "think": Prompt("detect.think.v1", thinking_prompt),
    },
    modes={
        "official": Mode(
            "official",
            "VLM-R1 (arXiv 2504.07615), whose script and file were not published: the definition is ours",
            (
                "Of each image, categories with more than ten boxes are skipped; images without boxes are not asked.",
                *_RULES,
                "COCO's AP over all asked images; greedy precision and recall at IoU 0.5 of one-to-one pairs, labels "
                "counted.",
            ),
            official,
            (
                "Boxes of a skipped category still cost precision, because its name is in the prompt's list.",
                "Crowd regions are no gold and cost nothing.",
                "pos_2: every category has one box. pos_3: at most ten boxes in all. filtered_positive: only labels "
                "that are present are in the prompt.",
                "Sizes of objects are those of their boxes; AP, AP50 and AP75 do not depend on them.",
            ),
        ),
        "strict": Mode(
            "strict", "this project's graders", (*_RULES, "An item is right when its F1 at IoU 0.5 is 1."), official,
            reason="this project's own",
        ),
    },
    headline=BenchmarkScore("AP", coco("AP"), most=MOST_FOR_INTERVAL),
    slices=("boxes",),
    scores=(
        BenchmarkScore("AP50", coco("AP50"), most=MOST_FOR_INTERVAL),
        BenchmarkScore("AP75", coco("AP75"), most=MOST_FOR_INTERVAL),
        BenchmarkScore("greedy_precision", greedy(0), most=MOST_FOR_INTERVAL),
        BenchmarkScore("greedy_recall", greedy(1), most=MOST_FOR_INTERVAL),
        *SHARED,
    ),
    subsets=("filtered", "filtered_positive", "pos_2", "pos_3"),
    notes=("With equal scores, junk after the right boxes costs no AP: read F1 and boxes per image beside it.",),
)  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- OVDEval


def load_ovdeval(place: Place) -> list[Sample]:
    if place.data is None:
        raise ValueError("OVDEval is not read from the hub; give path=FOLDER with annotations/ and images/")
    tasks = [task for some in ASPECTS.values() for task in some]
    if place.subset not in (None, "all"):
        tasks = [place.subset]
    root = place.data
    found: list[Sample] = []
    for task in tasks:
        file = next((f for f in (root / "annotations" / f"{task}.json", root / f"{task}.json") if f.is_file()), None)
        if file is None:
            continue
        folder = place.images or root / "images"
        within = folder / task if (folder / task).is_dir() else folder
        reading = replace(place, images=None).reading(file, within)
        found += _subtask(task, _instances(reading), reading)
    if not found:
        raise ValueError(f"{root}: holds no annotations/<subtask>.json of {', '.join(tasks)}")
    return found


def _subtask(task: str, held: Instances, reading: Reading) -> list[Sample]:
    return [_asked(task, key, picture, held, reading) for key, picture in held.pictures.items()]


def _asked(task: str, key: Any, picture: Picture, held: Instances, reading: Reading) -> Sample:
    gold = [_labelled(held, one) for one in held.by_image[key] if not one.crowd]
    labels = sorted({*picture.positive, *map(str, picture.negative), *(one["label"] for one in gold)})
    meta = {"labels": labels, "slices": {"subtask": task, "aspect": _aspect(task)}}
    return sample_at(picture.place, partial(_sample, f"{task}/{key}", picture, reading, gold, meta))


def _aspect(task: str) -> str:
    return next(name for name, tasks in ASPECTS.items() if task in tasks)


OVDEVAL = Benchmark(
    name="ovdeval",
    title="OVDEval",
    layout="A folder with `annotations/<subtask>.json` (COCO, each image with `text` and `neg_text`) and `images/` (or "
    "`images/<subtask>/`), for celebrity, logo, landmark, color, material, position, relationship, negation.",
    load=load_ovdeval,
    prompts={
        "list": Prompt("detect.list.v1", prompt),
        "think": Prompt("detect.think.v1", thinking_prompt),
    },
    modes={
        "official": Mode(
            "official",
            "om-ai-lab/OVDEval, NMS-AP (arXiv 2308.13177)",
            (
                "One question per image with its `text` and `neg_text` labels.",
                *_RULES,
                "Around each gold box, in order, of the boxes of any label with IoU > 0.5 only the best scored stays, "
                "of equal ones the last listed; a box that some gold box keeps is never removed; boxes that overlap no "
                "gold box stay. Then COCO's AP per subtask.",
                "The average is the mean of five aspects: proper noun (celebrity, logo, landmark), attribute (color, "
                "material), position, relationship, negation; not the mean of eight columns.",
            ),
            official,
            ("The ninth subtask (object) is skipped, as in the published averages.",),
        ),
        "strict": Mode(
            "strict", "this project's graders", (*_RULES, "An item is right when its F1 at IoU 0.5 is 1."), official,
            reason="this project's own",
        ),
    },
    headline=BenchmarkScore("NMS-AP", mean_of_aspects, most=MOST_FOR_INTERVAL),
    slices=("subtask", "aspect"),
    scores=(
        *(BenchmarkScore(f"NMS-AP/{t}", subtask(t), most=MOST_FOR_INTERVAL) for some in ASPECTS.values() for t in some),
        *SHARED,
    ),
    subsets=("all", *(task for some in ASPECTS.values() for task in some)),
    notes=("Vision-language models give no scores, so NMS keeps the last of the boxes that share a gold box.",),
)  # fmt: skip

BENCHMARKS = (COCO_FILTERED, OVDEVAL)
