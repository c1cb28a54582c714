"""MME (Fu et al. 2023, arXiv 2306.13394): yes/no questions, two per image, in 14 subtasks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from saccade import grading
from saccade.evaluation.benchmarks import judging, replies
from saccade.evaluation.benchmarks.benchmark import (
    Benchmark,
    BenchmarkJudge,
    BenchmarkScore,
    Grade,
    Mode,
    OutcomeGroup,
    ParsedReply,
    Place,
)
from saccade.evaluation.benchmarks.prompts import asking
from saccade.evaluation.benchmarks.rows import Table, rows_of, sample_at, text_of
from saccade.evaluation.benchmarks.scoring import grouped, mean
from saccade.grading import Verdict
from saccade.types import Sample

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
FILES = ("test*.parquet", "data/test*.parquet", "MME.tsv", "*.jsonl")


def load(place: Place) -> list[Sample]:
    found = []
    for table, where, row in rows_of(place, FILES, ("lmms-lab/MME", None, "test")):
        found.append(sample_at(where, partial(_sample, table, row)))
    return found


def _sample(table: Table, row: dict[str, Any]) -> Sample:
    category, answer = text_of(row, "category"), text_of(row, "answer").lower()
    if category not in (*PERCEPTION, *COGNITION):
        raise ValueError(f"field 'category': got {category!r}, expected one of {', '.join((*PERCEPTION, *COGNITION))}")
    if answer not in ("yes", "no"):
        raise ValueError(f"field 'answer': got {answer!r}, expected Yes or No")
    picture, question = text_of(row, "question_id", "image_path", "index"), text_of(row, "question")
    part = "perception" if category in PERCEPTION else "cognition"
    meta = {"slices": {"part": part, "subtask": category}, "group": f"{category}/{picture}"}
    name = f"{category}/{picture}/{answer}" if "index" not in row else str(row["index"])
    return Sample(name, table.images(row.get("image")), question, answer, "yes_no", meta)


# ------------------------------------------------------------------------------------------------------------- grading


def official(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    if reply.final_text is None or not reply.final_text.strip():
        return replies.NO_ANSWER
    opening = reply.final_text.strip().lower()[:4]
    answer_text = "yes" if "yes" in opening else "no" if "no" in opening else "other"
    return Grade(answer_text == sample.answer, "first four characters", answer_text)


def vlmeval(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    if reply.final_text is None or not reply.final_text.strip():
        return replies.NO_ANSWER
    words = set(re.findall(r"[a-z]+", reply.final_text.lower()))
    if ("yes" in words) == ("no" in words):
        return judging.undecided(Grade(False, "", "unknown"), "yes and no, or neither, among the words")
    answer_text = "yes" if "yes" in words else "no"
    return Grade(answer_text == sample.answer, "yes or no among the words", answer_text)


def strict_rule(answer: str, sample: Sample) -> Verdict:
    return grading.grade_yes_no(answer, sample.answer)


# -------------------------------------------------------------------------------------------------------------- scores


def pairs_right(groups: Sequence[OutcomeGroup]) -> float | None:
    """acc+: share of images with all their questions right."""
    whole = [group for group in groups if group]
    if not whole:
        return None
    attempts = len(whole[0][0].values)
    return sum(all(one.values[k] == 1.0 for one in group) for group in whole for k in range(attempts)) / (
        len(whole) * attempts
    )


def points(part: str | None, subtask: str | None = None) -> Any:
    """acc + acc+ in percent, summed over the subtasks of a part (perception up to 2000, cognition up to 800)."""

    def statistic(groups: Sequence[OutcomeGroup]) -> float | None:
        held = grouped(groups, "part").get(part, []) if part else groups
        tasks = grouped(held, "subtask")
        tasks = {name: some for name, some in tasks.items() if subtask in (None, name)}
        if not tasks:
            return None
        return sum(100.0 * ((mean(some) or 0.0) + (pairs_right(some) or 0.0)) for some in tasks.values())

    return statistic


BENCHMARK = Benchmark(
    name="mme",
    title="MME",
    layout="The hub's Parquet (lmms-lab/MME), VLMEvalKit's `MME.tsv`, or JSONL. Fields: question_id (the image), "
    "image, question, answer (Yes or No), category.",
    load=load,
    prompts={"bare": asking("mme.bare.v1"), "yes_no": asking("mme.yes_no.v1", "\nAnswer with yes or no alone.")},
    modes={
        "official": Mode(
            "official",
            "MME's calculation script, as in lmms-eval",
            (
                replies.THOUGHT,
                "Of the first four characters, in lower case: 'yes' in them is yes, else 'no' in them is no, else "
                "neither, which is wrong.",
                "A subtask's score is accuracy plus accuracy+ (both questions of an image right), in percent, up to "
                "200; perception is the sum of ten, cognition of four.",
            ),
            official,
        ),
        "vlmeval": Mode(
            "vlmeval",
            "VLMEvalKit",
            (
                replies.THOUGHT,
                "Exactly one of the words yes and no is in the reply: that one.",
                "Otherwise it is unknown: a judge's there, open here.",
            ),
            vlmeval,
            ("No judge is used: replies with both words or neither count as needing one.",),
            judge=True,
        ),
        "strict": replies.strict_mode(
            strict_rule, ("Whole words in English and Chinese; an opening yes or no by itself decides.",)
        ),
    },
    headline=BenchmarkScore("sum", points(None), "points"),
    slices=("part", "subtask"),
    scores=(
        BenchmarkScore("perception", points("perception"), "points"),
        BenchmarkScore("cognition", points("cognition"), "points"),
        BenchmarkScore("accuracy_plus", pairs_right),
        *(BenchmarkScore(f"points/{name}", points(None, name), "points") for name in (*PERCEPTION, *COGNITION)),
    ),
    notes=("Quote perception or the sum and say which; the sum goes up to 2800.",),
)
