"""MathVista (Lu et al. 2023, arXiv 2310.02255), testmini: 1,000 questions in five tasks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from rapidfuzz.distance import Levenshtein

from saccade import grading
from saccade.evaluation.benchmarks import judging, replies
from saccade.evaluation.benchmarks.benchmark import (
    Benchmark,
    BenchmarkJudge,
    Grade,
    JudgeError,
    Mode,
    ParsedReply,
    Place,
    Prompt,
)
from saccade.evaluation.benchmarks.prompts import with_images
from saccade.evaluation.benchmarks.rows import Table, rows_of, sample_at, text_of
from saccade.evaluation.benchmarks.scoring import ACCURACY
from saccade.faults import shown
from saccade.grading import Verdict
from saccade.types import Sample

FILES = ("testmini.json", "*testmini*.parquet", "data/testmini*.parquet", "MathVista_MINI.tsv", "*.jsonl", "*.json")
DIMENSIONS = ("question_type", "answer_type", "language", "source", "category", "task", "context", "grade", "skills")
MOST_DECIMALS = 20
_QUOTED = re.compile(r'the answer is "(.*?)"', re.I)
_PARENTHESISED = re.compile(r"\(([a-zA-Z])\)")


def load(place: Place) -> list[Sample]:
    found = []
    for table, where, row in rows_of(place, FILES, ("AI4Math/MathVista", None, "testmini")):
        found.append(sample_at(where, partial(_sample, table, row)))
    return found


def _sample(table: Table, row: dict[str, Any]) -> Sample:
    choices = _listed(row.get("choices"))
    kind = text_of(row, "question_type")
    if kind not in ("multi_choice", "free_form"):
        raise ValueError(f"field 'question_type': got {kind!r}, expected multi_choice or free_form")
    answer, shape = text_of(row, "answer"), text_of(row, "answer_type")
    held = row.get("metadata")
    metadata = held if isinstance(held, dict) else {}
    slices = {name: metadata.get(name, row.get(name)) for name in DIMENSIONS}
    slices |= {"question_type": kind, "answer_type": shape}
    meta = {
        "options": choices,
        "slices": {name: value for name, value in slices.items() if value is not None},
        "query": row.get("query"),
        "unit": row.get("unit"),
        "answer_type": shape,
        "precision": _precision(row.get("precision")),
        "multi_choice": kind == "multi_choice",
    }
    if kind == "multi_choice" and answer not in choices:
        raise ValueError(f"field 'answer': got {answer!r}, expected one of the choices {choices}")
    images = table.images(row.get("decoded_image") or row.get("image"))
    name = str(row.get("pid") or row.get("_key") or row.get("index"))
    return Sample(name, images, text_of(row, "question"), answer, "choice" if choices else "free_form", meta)


def _precision(value: Any) -> int | None:
    """Decimal places; ValueError for what is none."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= MOST_DECIMALS:
        raise ValueError(f"field 'precision': got {shown(value)}, expected decimal places, 0 to {MOST_DECIMALS}")
    return int(number)


def _listed(value: Any) -> list[str]:
    """The choices, given as a list or as the text of one (TSV)."""
    if isinstance(value, str) and value.strip():
        inside = value.strip().removeprefix("[").removesuffix("]")
        found = re.findall(r"'([^']*)'|\"([^\"]*)\"", inside)
        return [one or other for one, other in found]
    return [str(one) for one in value] if isinstance(value, list | tuple) else []


# ------------------------------------------------------------------------------------------------------------- prompts


def query(sample: Sample) -> str:
    """The row's own `query`; without one, hint, question, unit and lettered choices in our words."""
    own = sample.meta.get("query")
    return with_images(sample, own if isinstance(own, str) and own.strip() else built(sample))


def built(sample: Sample) -> str:
    precision, shape = sample.meta["precision"] or 1, sample.meta["answer_type"]
    forms = {
        "integer": "Hint: end with a whole number, such as 3.",
        "float": f"Hint: end with a number of {precision} decimal places, such as {1.25:.{precision}f}.",
        "list": "Hint: end with a Python list, such as [1, 2, 3].",
    }
    hint = forms.get(shape, "Hint: end with the answer.")
    if sample.meta["multi_choice"]:
        hint = "Hint: end with the letter of the right option, such as A."
    unit = f" (Unit: {sample.meta['unit']})" if sample.meta.get("unit") else ""
    lines = [hint, f"Question: {sample.question}{unit}"]
    if sample.meta["options"]:
        lines += ["Choices:", *(f"({chr(65 + i)}) {one}" for i, one in enumerate(sample.meta["options"]))]
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------ official

EXAMPLES = (
    ("Hint: end with a whole number.\nQuestion: How many sides has the shape?", "I count five sides, so five.", "5"),
    (
        "Hint: end with a number of one decimal place.\nQuestion: What part of the circle is red?",
        "A quarter and a bit: 0.3 of it.",
        "0.3",
    ),
    (
        "Hint: end with a number of two decimal places.\nQuestion: What does the lamp cost (Unit: $)?",
        "The tag says 14 dollars and 50 cents.",
        "14.50",
    ),
    (
        "Hint: end with a Python list.\nQuestion: Between which years did it rise?",
        "It rose from 2003 to 2006.",
        "[2003, 2006]",
    ),
    (
        "Hint: end with the letter of the right option.\nQuestion: What is x?\nChoices:\n(A) 3\n(B) 4",
        "By Pythagoras x is 4, the second option.",
        "B",
    ),
)


def extract_by_rule(answer_text: str, sample: Sample) -> tuple[str, str] | None:
    """(answer, rule) where the official script needs no model."""
    answer_text, shape = answer_text.strip(), sample.meta["answer_type"]
    if sample.meta["multi_choice"] and answer_text in sample.meta["options"]:
        return answer_text, "a choice"
    try:
        if shape == "integer":
            return str(int(answer_text)), "an integer"
        if shape == "float":
            return str(float(answer_text)), "a float"
    except ValueError:
        pass
    return None


def normalize(extracted: str, sample: Sample) -> str | None:
    """The official normal form of an extraction; None where it cannot be read."""
    shape = sample.meta["answer_type"]
    if sample.meta["multi_choice"]:
        return nearest_choice(extracted.strip(), sample.meta["options"])
    try:
        if shape == "integer":
            return str(int(float(extracted)))
        if shape == "float":
            return str(round(float(extracted), sample.meta["precision"] or 0))
    except (ValueError, OverflowError):
        return None
    return extracted


def nearest_choice(answer_text: str, choices: Sequence[str]) -> str:
    """The choice of the first parenthesised letter, else of a letter, else the nearest by edit distance (the first)."""
    inside = _PARENTHESISED.search(answer_text)
    letter = inside[1].upper() if inside else answer_text
    if len(letter) == 1 and 0 <= ord(letter) - 65 < len(choices):
        return choices[ord(letter) - 65]
    return min(choices, key=lambda choice: Levenshtein.distance(letter[: replies.LONGEST], choice[: replies.LONGEST]))


def official(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    if reply.final_text is None:
        return replies.NO_ANSWER
    found, judged = extract_by_rule(reply.final_text, sample), ()
    if found is None and judge is not None:
        form = "Use the form that the question's hint asks for."
        prompt = judging.extraction_prompt(query(sample).replace("<image>", ""), reply.final_text, EXAMPLES, form)
        try:
            answer_text = judging.extract(judge, prompt)
        except JudgeError as error:
            return judging.undecided(Grade(False, ""), str(error))
        found, judged = (answer_text, "judge: extraction"), (answer_text,)
    elif found is None and reply.final_text.strip() == sample.answer:
        found = sample.answer, "the gold, word for word"
    elif found is None:
        quick = _QUOTED.search(reply.final_text)
        if quick is None:
            return judging.undecided(Grade(False, ""), "the extraction from free text is a judge's")
        found = quick[1], "quoted after 'the answer is'"
    answer = normalize(found[0], sample)
    right = answer is not None and answer == sample.answer
    return Grade(right, found[1], found[0], "" if right else f"normal form {answer!r}", judged=judged)


# -------------------------------------------------------------------------------------------------------------- strict


def strict_rule(answer: str, sample: Sample) -> Verdict:
    """Choices by letter or text; numbers equal once rounded to the stated precision."""
    options, shape = sample.meta["options"], sample.meta["answer_type"]
    if sample.meta["multi_choice"]:
        return grading.grade_choice(answer, chr(65 + options.index(sample.answer)), tuple(options))
    if shape == "float" and sample.meta["precision"] is not None:
        half = 0.5 * 10.0 ** -sample.meta["precision"]
        return grading.grade_number(answer, sample.answer, absolute=half)
    if shape in ("integer", "float"):
        return grading.grade_number(answer, sample.answer)
    return grading.grade_math(answer, sample.answer) if shape == "list" else grading.grade_text(answer, sample.answer)


BENCHMARK = Benchmark(
    name="mathvista",
    title="MathVista testmini",
    layout="`testmini.json` (rows by pid) beside `images/`, the hub's Parquet files (AI4Math/MathVista), VLMEvalKit's "
    "`MathVista_MINI.tsv`, or JSONL. Fields: pid, question, image, choices, unit, precision, answer, question_type, "
    "answer_type, metadata{...}, query.",
    load=load,
    prompts={"query": Prompt("mathvista.query.v1", query)},
    modes={
        "official": Mode(
            "official",
            "lupantech/MathVista, evaluation/extract_answer.py and calculate_score.py",
            (
                replies.THOUGHT,
                "A reply that is one of the choices, word for word, is that choice.",
                "For an integer or float answer, a reply that is such a number is used.",
                "Otherwise a judge extracts, shown five examples, one for each kind of answer.",
                "A choice: the first letter in parentheses, else a lone capital letter of the options, else the "
                "nearest choice by edit distance.",
                "An integer: int(float(x)), which cuts decimals off. A float: round(x, precision). Else the text.",
                "Right when the normal form equals the gold as text; no tolerance.",
            ),
            official,
            (
                *judging.OWN_WORDING,
                "Without a judge, a reply that is the gold word for word is right, and the script's optional quick "
                "rule is used (the text quoted after 'the answer is'); the rest counts as needing a judge.",
                "A row without `query` gets one in our words.",
            ),
            judge=True,
        ),
        "strict": replies.strict_mode(
            strict_rule,
            (
                "Choices by letter or by the text of exactly one option.",
                "Integers equal; floats within half a unit of the stated precision; lists by the math grader; text by "
                "equality but for case and spaces.",
            ),
        ),
    },
    headline=ACCURACY,
    slices=DIMENSIONS,
    subsets=("testmini",),
    notes=(
        "The nearest choice by edit distance means that nonsense can score by luck.",
        "Two of the 1,000 questions need a list.",
    ),
)
