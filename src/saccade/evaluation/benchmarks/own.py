"""Questions of your own: a recipe's data sets, the visual world's splits, and any file that `saccade.data` reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from saccade.data.formats import READERS
from saccade.evaluation.benchmarks.benchmark import Benchmark, BenchmarkJudge, Grade, Mode, ParsedReply, Place, Prompt
from saccade.evaluation.benchmarks.prompts import template
from saccade.evaluation.benchmarks.replies import STRICT_RULE
from saccade.evaluation.benchmarks.rows import samples_of
from saccade.evaluation.benchmarks.scoring import ACCURACY
from saccade.evaluation.boxes import gold_boxes, reply_boxes
from saccade.parsing import read_final
from saccade.tasks import TASKS
from saccade.types import Completion, Sample
from saccade.world import World, WorldConfig
from saccade.world.splits import SPLITS, find_split

WORLD_SEED = 20261121
WORLD_ITEMS = 100
OWN = "own"
"""The benchmark that a recipe's `data` and `world` make."""


def heldout_seed(seed: int) -> int:
    """A world seed in its own namespace, [2^62, 2^63), which training seeds, usually small, do not reach."""
    digest = hashlib.sha256(f"saccade/held-out/{seed}".encode()).digest()
    return (1 << 62) | (int.from_bytes(digest[:8], "big") >> 2)


def world_suite(
    splits: Sequence[str], tasks: Sequence[str], n: int, seed: int, config: WorldConfig | None = None
) -> list[Sample]:
    """`n` held-out questions for each split and each of `tasks` that the split has.

    Ids are '<split>/<task>/<seed>/<index>'. Raises ValueError for an unknown split, and for a split
    with none of the tasks.
    """
    world, hidden = World(config or WorldConfig()), heldout_seed(seed)
    suite: list[Sample] = []
    for split in splits:
        known = [task for task in tasks if task in find_split(split).tasks]
        if not known:
            raise ValueError(
                f"split '{split}' has none of the tasks {list(tasks)}; it has {', '.join(find_split(split).tasks)}"
            )
        for task in known:
            items = (world.item(hidden, index, task, split).sample for index in range(n))
            suite += [_named(sample, f"{split}/{task}/{seed}/{index}", split) for index, sample in enumerate(items)]
    return suite


def _named(sample: Sample, name: str, split: str) -> Sample:
    return replace(sample, id=name, meta={**sample.meta, "split": split})


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
        raise ValueError("benchmark 'jsonl' needs a file of questions: give path=FILE")
    name = place.format or "vlm_r1"
    if name not in READERS:
        raise ValueError(f"format is {name!r}; expected one of {', '.join(READERS)}")
    found = []
    for _, sample in samples_of(name, place.reading(place.data)):
        known(sample)
        given = sample.meta.get("slices")
        slices = given if isinstance(given, Mapping) else {}
        found.append(_sliced(sample, {"task": sample.task, **slices}))
    return found


def known(sample: Sample) -> Sample:
    """The sample. ValueError for a task that does not exist."""
    if sample.task not in TASKS:
        raise ValueError(f"sample {sample.id!r} names task {sample.task!r}; expected one of {', '.join(TASKS)}")
    return sample


def own_benchmark(samples: Sequence[Sample], template: str | None = None) -> Benchmark:
    """A recipe's own questions, each in the wording of its task (or `template`). ValueError for an unknown task."""
    found = [_by_split(known(sample)) for sample in samples]
    wording = Prompt(template or "task", lambda sample: TASKS[sample.task].prompt(sample, template))
    return Benchmark(
        name=OWN,
        title="Own questions",
        layout="",
        load=lambda place: found,
        prompts={"task": wording},
        modes={"strict": STRICT},
        headline=ACCURACY,
        slices=("split", "split / task"),
        needs_data=False,
    )


def _by_split(sample: Sample) -> Sample:
    """Its split, else the data set that it came from."""
    split = str(sample.meta.get("split") or sample.meta.get("source") or "test")
    return _sliced(sample, {"split": split, "task": sample.task, "split / task": f"{split} / {sample.task}"})


def _sliced(sample: Sample, slices: Mapping[str, Any]) -> Sample:
    return replace(sample, meta={**sample.meta, "slices": dict(slices)})


def by_task(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    """The verdict of the sample's own task."""
    verdict = TASKS[sample.task].correct(Completion(reply.text, frames=reply.frames), sample)
    asked = sample.answer == [] or gold_boxes(sample.answer)  # none of what was asked is there: boxes all the same
    shown = reply_boxes(reply.text, reply.frames[sample.box_image]) if asked and reply.frames else ()
    boxes = tuple((box, "") for box in shown)
    answer = read_final(reply.text)
    answer = answer.strip() if answer is not None else None
    return Grade(verdict.right, verdict.route, answer, verdict.detail, verdict.value, boxes)


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
        notes=(f"Seed {WORLD_SEED} of the held-out namespace, which no training seed reaches.",),
        needs_data=False,
    ),
    Benchmark(
        name="jsonl",
        title="Any file",
        layout="Any file of a format in docs/data.md, named by `format` (default: vlm_r1): JSONL, JSON or "
        "Parquet. `meta.slices` of a row, an object, names its sub-scores.",
        load=load_rows,
        prompts={"bare": template("bare"), "vlm_r1": template("vlm_r1"), "vlm_r1_json": template("vlm_r1_json")},
        modes={"strict": STRICT},
        headline=ACCURACY,
        slices=("task",),
    ),
)
