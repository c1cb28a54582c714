"""Geometry3K (Lu et al. 2021, arXiv 2105.04165): geometry with a diagram, four choices, or free answers in RL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from saccade.evaluation.benchmarks import replies
from saccade.evaluation.benchmarks.benchmark import Benchmark, BenchmarkJudge, Grade, Mode, ParsedReply, Place
from saccade.evaluation.benchmarks.prompts import BOXED, asking
from saccade.evaluation.benchmarks.rows import find, samples_of
from saccade.evaluation.benchmarks.scoring import ACCURACY
from saccade.grading import grade_math
from saccade.grading.latex import evaluate, normal
from saccade.parsing import read_boxed, read_choice, read_number
from saccade.types import Sample

FILES = ("test.parquet", "test-*.parquet", "data/test-*.parquet", "*.jsonl")
HUB = Path("hiyouga/geometry3k")
_PLAIN_FRACTION = re.compile(r"-?\\frac\{(\d+)\}\{(\d+)\}|-?(\d+)/(\d+)")


def load(place: Place) -> list[Sample]:
    found = []
    for _, sample in _items(place):
        slices = {"form": "choice" if sample.task == "choice" else "free_form"}
        found.append(replace(sample, meta={**sample.meta, "slices": slices}))
    return found


def _items(place: Place) -> Iterator[tuple[str, Sample]]:
    path = place.data
    if path is None:
        yield from samples_of("easy_r1", place.reading(HUB, hub=True, split="test"))
        return
    if path.is_dir() and any(path.glob("*/data.json")):
        yield from samples_of("geometry3k", place.reading(path))
        return
    for file in find(place, FILES):
        yield from samples_of("easy_r1", place.reading(file))


def official(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    if reply.final_text is None or not reply.final_text.strip():
        return replies.NO_ANSWER
    boxed = read_boxed(reply.final_text)
    answer_text = reply.final_text if boxed is None else boxed
    values, options = sample.meta.get("precise_value"), tuple(sample.meta.get("options") or ())
    if not values or not options:
        return _free(reply, sample)
    letter = read_choice(answer_text, "ABCD"[: len(options)], options)
    if letter is not None:
        return Grade(letter == sample.answer, "letter or text", letter)
    number = _value(answer_text)
    if number is None:
        return Grade(False, "no number", answer_text[:80])
    nearest = min(range(len(values)), key=lambda i: abs(float(values[i]) - number))
    picked = "ABCD"[nearest]
    return Grade(picked == sample.answer, "nearest of the choices", f"{number:g}", f"nearest is {picked}")


def _free(reply: ParsedReply, sample: Sample) -> Grade:
    return replies.strict_grade(reply, sample, replies.by_task)


def _value(text: str) -> float | None:
    found = evaluate(normal(text)) if text.strip() else None
    return found.number if found is not None else read_number(text)


def easy_r1(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    """The reward of EasyR1 and verl for this set: the last box, graded as mathruler does."""
    boxed = read_boxed(reply.text)
    gold = str(sample.answer)
    if boxed is None:
        return Grade(gold.strip() == "None", "no box", "None")
    mine, theirs = normal(boxed), normal(gold)
    if mine == theirs:
        return Grade(True, "boxed: same text", boxed)
    fraction = _PLAIN_FRACTION.fullmatch(mine)
    if fraction and _PLAIN_FRACTION.fullmatch(theirs):
        return Grade(False, "boxed: unreduced fraction", boxed)
    wanted, got = evaluate(theirs), evaluate(mine)
    if re.fullmatch(r"-?\d+", theirs) and not re.fullmatch(r"-?\d+(?:\.0*)?", mine):
        return Grade(False, "boxed: a whole number is wanted", boxed)
    if wanted is not None and got is not None:
        return Grade(abs(wanted.number - got.number) < 1e-9, "boxed: number", boxed)
    verdict = grade_math(boxed, gold)
    return Grade(verdict.right, f"boxed: {verdict.route}", boxed, verdict.detail)


BENCHMARK = Benchmark(
    name="geometry3k",
    title="Geometry3K",
    layout="The original folders (`<number>/data.json` beside `img_diagram.png`), or hiyouga/geometry3k: "
    "`test.parquet` (images, problem, answer), or JSONL of that shape.",
    load=load,
    prompts={"boxed": asking("geometry3k.boxed.v1", BOXED), "bare": asking("geometry3k.bare.v1")},
    modes={
        "official": Mode(
            "official",
            "lupantech/InterGPS: the nearest of four choices",
            (
                replies.THOUGHT,
                "The last \\boxed where there is one. A letter, or the text of exactly one choice, is that choice.",
                "Otherwise the reply's number, and the choice whose precise value is nearest to it.",
                "A reply without a letter or a number is wrong.",
            ),
            official,
            (
                "The original solver's 'no answer' draws a choice by lot; here it is wrong.",
                "Rows without choices (the Parquet layout) are graded by mathematical equality.",
            ),
        ),
        "easy_r1": Mode(
            "easy_r1",
            "EasyR1's and verl's reward for geometry3k: the last box, graded by mathruler",
            (
                "The last \\boxed of the whole reply; without one the text None.",
                "The same text is right; unreduced fractions are wrong; a whole-number gold requires a whole number.",
                "Numbers must be equal; the rest is decided symbolically.",
            ),
            easy_r1,
            ("mathruler is not run: its normal form is approximated, and math-verify decides what is symbolic.",),
        ),
        "strict": replies.strict_mode(
            replies.by_task,
            ("Choices by letter or by the text of exactly one choice.", "Free answers by mathematical equality."),
        ),
    },
    headline=ACCURACY,
    slices=("form",),
    notes=(
        "Free-form grading under-counts decimals: 5.8 for an irrational gold is no match.",
        "Some copies on the hub have another test split: count the rows (test 601, validation 300, train 2,101).",
    ),
)
