"""Questions of one's own: the visual world's splits, and any file that `saccade.data` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from saccade.data.readers import READERS
from saccade.data.records import Reading
from saccade.evaluation.benchmarks.benchmark import Benchmark, Grade, Judge, Mode, Place, Reply
from saccade.evaluation.benchmarks.prompts import template
from saccade.evaluation.benchmarks.replies import STRICT_RULE
from saccade.evaluation.benchmarks.scoring import ACCURACY
from saccade.evaluation.boxes import gold_boxes, reply_boxes
from saccade.evaluation.suites import world_suite
from saccade.parsing import read_final
from saccade.tasks import TASKS
from saccade.types import Completion, Sample
from saccade.world.splits import SPLITS, find_split

WORLD_SEED = 20261121
WORLD_ITEMS = 100


def load_world(place: Place) -> list[Sample]:
    """100 questions of every split and task; with a limit so few of each that all of them together still reach it."""
    splits = list(SPLITS) if place.subset in (None, "all") else [str(place.subset)]
    splits = [split for split in splits if split != "train"]
    found: list[Sample] = []
    for split in splits:
        tasks = list(find_split(split).tasks)
        wanted = WORLD_ITEMS if place.limit is None else max(1, -(-place.limit // (len(tasks) * len(splits))))
        found += world_suite([split], tasks, min(WORLD_ITEMS, wanted), WORLD_SEED)
    return [_sliced(sample, {"split": sample.meta["split"], "task": sample.task}) for sample in found]


def load_rows(place: Place) -> list[Sample]:
    if place.data is None:
        raise ValueError("benchmark 'jsonl' asks the questions of a file: give --data FILE")
    name = place.format or "vlm_r1"
    if name not in READERS:
        raise ValueError(f"--format is {name!r}; expected one of {', '.join(READERS)}")
    folder = place.images or (place.data if place.data.is_dir() else place.data.parent)
    found = []
    for where, sample in READERS[name](Reading(place.data, folder)):
        if isinstance(sample, ValueError):
            raise ValueError(f"{where}: {sample}")
        given = sample.meta.get("slices")
        slices = given if isinstance(given, Mapping) else {}
        found.append(_sliced(sample, {"task": sample.task, **slices}))
    return found


def _sliced(sample: Sample, slices: Mapping[str, Any]) -> Sample:
    return replace(sample, meta={**sample.meta, "slices": dict(slices)})


def by_task(reply: Reply, sample: Sample, judge: Judge | None) -> Grade:
    """The verdict of the sample's own task."""
    task = TASKS.get(sample.task)
    if task is None:
        raise ValueError(f"sample {sample.id!r} names task {sample.task!r}; expected one of {', '.join(TASKS)}")
    verdict = task.correct(Completion(reply.text, frames=reply.frames), sample)
    index = int(sample.meta.get("image_index", 0))
    shown = reply_boxes(reply.text, reply.frames[index]) if gold_boxes(sample.answer) and reply.frames else ()
    boxes = tuple((box, "") for box in shown)
    return Grade(verdict.right, verdict.route, read_final(reply.text), verdict.detail, verdict.value, boxes)


STRICT = Mode(
    "strict",
    "this project's graders",
    (STRICT_RULE, "The grader of the question's task, as in training (docs/rewards.md)."),
    by_task,
    reason="this project's own",
)
BENCHMARKS = (
    Benchmark(
        name="world",
        title="The visual world's held-out splits",
        layout="No files: the questions are drawn, 100 for each split and task.",
        load=load_world,
        prompts={"bare": template("bare"), "vlm_r1": template("vlm_r1")},
        modes={"strict": STRICT},
        headline=ACCURACY,
        slices=("split", "task"),
        subsets=("all", *(split for split in SPLITS if split != "train")),
        notes=(f"Seed {WORLD_SEED} of the held-out name space, which no training seed meets.",),
        needs_data=False,
    ),
    Benchmark(
        name="jsonl",
        title="Any file",
        layout="Any file of a format in docs/data.md, named by `--format` (vlm_r1 unless told): JSONL, JSON or "
        "Parquet. `meta.slices` of a row, an object, names its sub-scores.",
        load=load_rows,
        prompts={"bare": template("bare"), "vlm_r1": template("vlm_r1"), "vlm_r1_json": template("vlm_r1_json")},
        modes={"strict": STRICT},
        headline=ACCURACY,
        slices=("task",),
    ),
)
