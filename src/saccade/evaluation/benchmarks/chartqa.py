"""ChartQA (Masry et al. 2022, arXiv 2203.10244), test: 1,250 questions by people and 1,250 made by a model."""

from __future__ import annotations

from functools import partial
from typing import Any

from saccade import grading
from saccade.data.files import hub_rows
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
from saccade.evaluation.benchmarks.prompts import SHORT, asking
from saccade.evaluation.benchmarks.rows import Table, file_rows, find, sample_at, text_of, whole
from saccade.evaluation.benchmarks.scoring import mean_of_slices
from saccade.grading import Verdict
from saccade.types import Sample

RELATIVE = 0.05
NAMES = {"human_test": "human", "augmented_test": "augmented", "human": "human", "augmented": "augmented"}
FILES = ("test.parquet", "test-*.parquet", "data/test-*.parquet", "test_*.json", "ChartQA_TEST.tsv", "*.jsonl")


def load(place: Place) -> list[Sample]:
    found: list[Sample] = []
    for table, where, row, split in _rows(place):
        found.append(sample_at(where, partial(_sample, table, row, split, len(found))))
    wanted = None if place.subset in (None, "all") else place.subset
    return [s for s in found if wanted is None or s.meta["slices"]["split"] == wanted]


def _rows(place: Place) -> Any:
    """(table, place, row, split given by the file's name)."""
    if place.data is None:
        name = "lmms-lab/ChartQA"
        table = Table(place, None, name)
        yield from ((table, where, row, None) for where, row in whole(hub_rows(name, None, "test")))
        return
    for file in find(place, FILES):
        split = next((s for s in ("human", "augmented") if s in file.stem), None)
        table = Table(place, file)
        yield from ((table, where, row, split) for where, row in whole(file_rows(file, "test")))


def _sample(table: Table, row: dict[str, Any], split: str | None, number: int) -> Sample:
    kind = str(row.get("type") or row.get("split") or split)
    if kind not in NAMES:
        raise ValueError(f"field 'type': got {kind!r}, expected human_test or augmented_test")
    answer = row.get("answer", row.get("label"))
    answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    if not isinstance(answer, str | int | float):
        raise ValueError(f"field 'answer': got {answer!r}, expected a text, a number or a list of one")
    picture = row.get("image") or (f"png/{row['imgname']}" if row.get("imgname") else None)
    question = text_of(row, "question", "query")
    meta = {"slices": {"split": NAMES[kind]}}
    return Sample(str(row.get("index", number)), table.images(picture), question, str(answer), "chart", meta)


def relaxed(answer: str, gold: str) -> tuple[bool, str]:
    """(right, rule): both numbers and gold not 0: within 5 percent of it; else equal but for case."""
    got, wanted = _number(answer), _number(gold)
    if got is not None and wanted:
        return abs(got - wanted) / abs(wanted) <= RELATIVE, "within 5 percent"
    return answer.lower() == gold.lower(), "same text"


def _number(text: str) -> float | None:
    """float(text), of a text that ends with % its hundredth; None when it is none."""
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def official(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    if reply.final_text is None or not reply.final_text.strip():
        return replies.NO_ANSWER
    answer_text = reply.final_text.strip()
    right, rule = relaxed(answer_text, sample.answer)
    return Grade(right, rule, answer_text)


def strict_rule(answer: str, sample: Sample) -> Verdict:
    """Numbers within 5 percent, years exactly; texts equal but for case and spaces."""
    gold = sample.answer
    year = gold.isdigit() and len(gold) == 4 and 1800 <= int(gold) <= 2100
    return grading.grade_value(answer, gold.rstrip("%"), relative=0.0 if year else RELATIVE)


BENCHMARK = Benchmark(
    name="chartqa",
    title="ChartQA test",
    layout="The hub's Parquet (lmms-lab/ChartQA: type, question, answer, image), the original `test_human.json` and "
    "`test_augmented.json` (imgname, query, label) beside `png/`, `ChartQA_TEST.tsv`, or JSONL.",
    load=load,
    prompts={"short": asking("chartqa.short.v1", SHORT), "bare": asking("chartqa.bare.v1")},
    modes={
        "official": Mode(
            "official",
            "ChartQA's relaxed accuracy, as in pix2struct, lmms-eval and VLMEvalKit",
            (
                replies.THOUGHT,
                "Both sides are read by float(); a text that ends with % is its hundredth.",
                "Both numbers and the gold not 0: right within 5 percent of the gold.",
                "Otherwise right when both are the same text, case aside.",
            ),
            official,
        ),
        "strict": replies.strict_mode(
            strict_rule,
            (
                "Numbers (with separators, units, percent) within 5 percent; a gold that is a year exactly.",
                "Texts equal but for case, spaces and outer punctuation.",
            ),
        ),
    },
    headline=BenchmarkScore("mean_of_splits", mean_of_slices("split")),
    slices=("split",),
    subsets=("all", "human", "augmented"),
    notes=(
        "Official traps: gold 0 needs the text '0'; '50%' for '50' is wrong; separators, $ and units are wrong; years "
        "within 5 percent always pass.",
        "Give a model that thinks enough tokens: some harnesses stop after 16.",
    ),
)
