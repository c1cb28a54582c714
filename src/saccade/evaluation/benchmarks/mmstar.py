"""MMStar (Chen et al. 2024, arXiv 2403.20330): 1,500 choice questions, 250 in each of six categories."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from saccade.evaluation.benchmarks import replies
from saccade.evaluation.benchmarks.benchmark import (
    Benchmark,
    BenchmarkJudge,
    BenchmarkScore,
    Grade,
    Mode,
    ParsedReply,
    Place,
)
from saccade.evaluation.benchmarks.prompts import LETTER, asking
from saccade.evaluation.benchmarks.rows import Table, rows_of, sample_at, text_of
from saccade.evaluation.benchmarks.scoring import mean_of_slices
from saccade.types import Sample

FILES = ("mmstar.parquet", "val*.parquet", "MMStar.tsv", "*.parquet", "*.jsonl")
LETTERS = "ABCD"
_OPTIONS = re.compile(r"(?:^|[\n,;][^\S\n]*)\(?([A-D])[):.]\s*")


def load(place: Place) -> list[Sample]:
    found = []
    for table, where, row in rows_of(place, FILES, ("Lin-Chen/MMStar", None, "val")):
        found.append(sample_at(where, partial(_sample, table, row)))
    return found


def _sample(table: Table, row: dict[str, Any]) -> Sample:
    answer = text_of(row, "answer").upper()
    if answer not in LETTERS or len(answer) != 1:
        raise ValueError(f"field 'answer': got {answer!r}, expected one of A, B, C, D")
    question = text_of(row, "question")
    columns = [str(row[letter]) for letter in LETTERS if row.get(letter) not in (None, "")]
    inside = columns or options_in(question)
    slices = {name: row.get(name) for name in ("category", "l2_category") if row.get(name)}
    meta = {"slices": slices, "options": inside or list(LETTERS), "options_in_text": not columns}
    return Sample(text_of(row, "index"), table.images(row.get("image")), question, answer, "choice", meta)


def options_in(question: str) -> list[str]:
    """The texts behind 'A: ', 'B: ' .. of a question that holds its options; [] when they do not start at A."""
    marks = list(_OPTIONS.finditer(question))
    if [mark[1] for mark in marks] != list(LETTERS[: len(marks)]) or len(marks) < 2:
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(question)]
    return [question[mark.end() : end].strip(" ,;\n") for mark, end in zip(marks, ends, strict=True)]


def _write(ending: str, id: str) -> Any:
    lettered, plain = asking(id, ending), asking(id, ending, options=False)
    prompt = type(lettered)(id, lambda s: (plain if s.meta["options_in_text"] else lettered).write(s))
    return prompt


def official(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    if reply.final_text is None or not reply.final_text.strip():
        return replies.NO_ANSWER
    answer_text = reply.final_text.lower().strip().replace("\n", " ")
    gold = sample.answer.lower()
    for opening, how in (("", "first letter"), ("(", "(letter"), ("option ", "option"), ("the answer is ", "cue")):
        if answer_text.startswith(opening) and answer_text[len(opening) : len(opening) + 1] == gold:
            return Grade(True, how, gold.upper())
    return Grade(False, "no rule fits", answer_text[:40])


BENCHMARK = Benchmark(
    name="mmstar",
    title="MMStar",
    layout="`mmstar.parquet` (the hub's Lin-Chen/MMStar, split val), VLMEvalKit's `MMStar.tsv` with columns A to D, "
    "or JSONL. Fields: index, question (with its options, unless there are columns), image, answer, category, "
    "l2_category.",
    load=load,
    prompts={
        "letter": _write(LETTER, "mmstar.letter.v1"),
        "cot": _write("\nReason step by step and end with 'ANSWER: X', where X is the letter.", "mmstar.cot.v1"),
    },
    modes={
        "official": Mode(
            "official",
            "MMStar-Benchmark/MMStar, its evaluation of direct answers",
            (
                replies.THOUGHT,
                "In lower case, without line breaks, the reply is right when it begins with the gold letter, with "
                "'(' and the letter, with 'option ' and the letter, or with 'the answer is ' and the letter.",
            ),
            official,
            (
                "The rule is from memory of the published evaluation; it passes any reply whose first letter is the "
                "gold's, such as 'A cat' for A.",
                "VLMEvalKit has a judge match what no rule reads, and may draw an option by lot without one: not here.",
            ),
        ),
        "strict": replies.strict_mode(replies.choice, ("By letter or by the text of exactly one option.",)),
    },
    headline=BenchmarkScore("mean_of_categories", mean_of_slices("category")),
    slices=("category", "l2_category"),
    scores=(BenchmarkScore("mean_of_axes", mean_of_slices("l2_category")),),
    notes=("The full set has 250 items per category, so the mean over categories is the mean over items.",),
)
