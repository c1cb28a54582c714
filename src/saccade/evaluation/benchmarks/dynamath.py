"""DynaMath (Zou et al. 2024, arXiv 2411.00836): 501 seed questions in ten variants, average and worst case."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from saccade import grading
from saccade.data.files import hub_rows
from saccade.evaluation.benchmarks import judging, replies
from saccade.evaluation.benchmarks.benchmark import (
    Benchmark,
    BenchmarkJudge,
    BenchmarkScore,
    Grade,
    JudgeError,
    Mode,
    OutcomeGroup,
    ParsedReply,
    Place,
    Prompt,
)
from saccade.evaluation.benchmarks.prompts import asking, with_images
from saccade.evaluation.benchmarks.rows import Table, file_rows, find, sample_at, text_of, whole
from saccade.evaluation.benchmarks.scoring import mean
from saccade.grading import Verdict
from saccade.types import Sample

HUB = "DynaMath/DynaMath_Sample"
VARIANTS = 10
TOLERANCE = 0.001
LETTERS = "ABCDEF"
FILES = (
    "DynaMath*.tsv",
    "sample_variant*.parquet",
    "data/sample_variant*.parquet",
    "data/sample*-*.parquet",
    "samples and result/10trials/trial*/dataset.json",
    "10trials/trial*/dataset.json",
    "trial*/dataset.json",
    "dataset.json",
    "dataset/dataset.json",
    "*.jsonl",
)
KINDS = {"float": "float", "int": "float", "multiple choice": "multiple choice", "text": "text"}
"""`answer_type` -> how it is graded; a 'single answer' is a choice when its gold is a letter, else a text."""
_VARIANT = re.compile(r"(?:variant_?|trial_?|^sample_?)(\d+)")


def load(place: Place) -> list[Sample]:
    found = []
    for table, where, row, variant in _rows(place):
        found.append(sample_at(where, partial(_sample, table, row, variant)))
    order = {sample.meta["group"]: None for sample in found}
    numbers = {group: i for i, group in enumerate(order)}
    return sorted(found, key=lambda s: (numbers[s.meta["group"]], int(s.meta["variant"])))


def _rows(place: Place) -> Any:
    if place.data is None:
        table = Table(place, None, HUB)
        for number in range(1, VARIANTS + 1):
            for where, row in whole(hub_rows(HUB, None, f"sample_variant{number}")):
                yield table, where, row, number
        return
    for file in find(place, FILES):
        named = _VARIANT.search(file.stem) or _VARIANT.search(file.parent.name)
        table = Table(place, file)
        for where, row in whole(file_rows(file, "sample_variant1")):
            yield table, where, row, int(named[1]) if named else None


def _sample(table: Table, row: dict[str, Any], variant: int | None) -> Sample:
    gold = text_of(row, "ground_truth", "answer")
    kind = _kind(row, gold)
    seed = text_of(row, "qid", "id", "_key")
    number = str(variant) if variant is not None else text_of({"varid": "1", **row}, "varid")
    level = row.get("knowledge_level") or row.get("level")
    meta = {
        "slices": {"subject": row.get("subject"), "level": level, "answer_type": text_of(row, "answer_type").lower()},
        "group": seed,
        "variant": re.sub(r"\D", "", number) or "0",
        "kind": kind,
    }
    task = {"multiple choice": "choice", "float": "free_form", "text": "text"}[kind]
    picture = row.get("decoded_image") or row.get("image")
    return Sample(f"{seed}/{number}", table.images(picture), text_of(row, "question"), gold, task, meta)


def _kind(row: dict[str, Any], gold: str) -> str:
    written = text_of(row, "answer_type").lower()
    if written == "single answer":
        return "multiple choice" if len(gold) == 1 and gold.upper() in LETTERS else "text"
    if written not in KINDS:
        raise ValueError(f"field 'answer_type': got {written!r}, expected one of {', '.join(KINDS)}, single answer")
    return KINDS[written]


def write(sample: Sample) -> str:
    """The question with the request for JSON."""
    forms = {
        "float": "a number with three decimal places",
        "multiple choice": "the letter of the right option alone",
        "text": "the answer in a few words",
    }
    return with_images(
        sample,
        f"## Question\n{sample.question}\n## Form of the answer\nAnswer with a JSON object with two keys: "
        f'"solution", your steps, and "short answer", {forms[sample.meta["kind"]]}.',
    )


# ------------------------------------------------------------------------------------------------------------ official


def short_answer(answer_text: str) -> str | None:
    """The 'short answer' of the outermost {..}, without backslashes, as in the script; None when that is not JSON."""
    start, end = answer_text.find("{"), answer_text.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        held = json.loads(answer_text[start : end + 1].replace("\\", ""), strict=False)
    except (ValueError, RecursionError):
        return None
    answer = held.get("short answer") if isinstance(held, dict) else None
    return None if answer is None else str(answer).strip()


def first_number(text: str) -> float | None:
    """The number of the first token, times pi when it is written with one; None when there is none."""
    words = text.strip().split()
    token = (words[0] if words else "").rstrip(",;").replace("π", "pi").replace("\\", "")
    factor = math.pi if "pi" in token else 1.0
    token = token.replace("*", "").replace("pi", "") or "1"
    try:
        value = float(token)
    except ValueError:
        found = re.fullmatch(r"(-?[\d.]+)/([\d.]+)", token)
        try:
            value = float(found[1]) / float(found[2]) if found else math.nan
        except (ValueError, ZeroDivisionError):
            return None
    return value * factor if math.isfinite(value) else None


_LONE = re.compile(r"(?<![A-Za-z])([A-F])(?![A-Za-z])", re.I)


def agrees(answer: str, sample: Sample) -> bool:
    kind = sample.meta["kind"]
    if kind == "float":
        got, wanted = first_number(answer), first_number(sample.answer)
        return got is not None and wanted is not None and abs(got - wanted) <= TOLERANCE
    if kind == "multiple choice":
        letters = {letter.upper() for letter in _LONE.findall(answer)}
        return letters == {sample.answer.strip().upper()}
    return bool(answer.strip()) and answer.strip().lower() in sample.answer.lower()


EXAMPLES = (
    ("What is the slope?", "The line rises by 3 over 2 steps, so 1.5.", "1.500"),
    ("Which graph is it? choice: (A) 1 (B) 2", "It is the second graph.", "B"),
    ("Is the function even or odd?", "Mirroring it at the y-axis changes nothing: even.", "even"),
)


def official(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    if reply.final_text is None or not reply.final_text.strip():
        return replies.NO_ANSWER
    answer, how, judged = short_answer(reply.final_text), "short answer of the JSON", ()
    if answer is None and judge is None:
        return judging.undecided(Grade(False, ""), "a reply without that JSON is shortened by a judge")
    if answer is None:
        form = "A number with three decimals, a letter, or a few words."
        try:
            assert judge is not None
            answer = judging.extract(
                judge, judging.extraction_prompt(sample.question, reply.final_text, EXAMPLES, form)
            )
        except JudgeError as error:
            return judging.undecided(Grade(False, ""), str(error))
        how, judged = "judge: extraction", (answer,)
    if sample.meta["kind"] == "float" and first_number(sample.answer) is None:
        return Grade(None, "gold", answer, f"gold {sample.answer!r} is no number")
    return Grade(agrees(answer, sample), how, answer, judged=judged)


def strict_rule(answer: str, sample: Sample) -> Verdict:
    """The short answer, or the whole answer, with the tolerance of 0.001; texts must be equal, not contained."""
    answer_text = short_answer(answer)
    answer_text = answer if answer_text is None else answer_text
    if sample.meta["kind"] == "float":
        return grading.grade_number(answer_text, sample.answer, absolute=TOLERANCE)
    if sample.meta["kind"] == "text":
        return grading.grade_text(answer_text, sample.answer)
    return grading.grade_choice(answer_text, sample.answer, tuple(LETTERS))


# -------------------------------------------------------------------------------------------------------------- scores


def worst(groups: Sequence[OutcomeGroup]) -> float | None:
    """Share of seed questions with all their variants right (with several attempts: the chance of it)."""
    whole = [group for group in groups if group]
    return sum(math.prod(one.mean for one in group) for group in whole) / len(whole) if whole else None


def robustness(groups: Sequence[OutcomeGroup]) -> float | None:
    """Worst case over average."""
    average, low = mean(groups), worst(groups)
    return None if not average or low is None else low / average


AVERAGE = BenchmarkScore("average", mean)

BENCHMARK = Benchmark(
    name="dynamath",
    title="DynaMath",
    layout="VLMEvalKit's `DynaMath*.tsv`; `sample_variant1..10` Parquet of the hub's DynaMath/DynaMath_Sample; the "
    "repository's `samples and result/10trials/trial1..10/dataset.json`, or its `dataset/dataset.json` (one variant), "
    "objects keyed by id; or JSONL. Fields: qid (id), varid, question, answer (ground_truth), answer_type (float, int, "
    "multiple choice, single answer, text), subject, knowledge_level (level), image.",
    load=load,
    prompts={"json": Prompt("dynamath.json.v1", write), "noprompt": asking("dynamath.bare.v1")},
    modes={
        "official": Mode(
            "official",
            "DynaMath/DynaMath by way of VLMEvalKit",
            (
                replies.THOUGHT,
                "The outermost {..} without its backslashes, read as JSON; its 'short answer'.",
                "When that is not JSON, a judge shortens the reply.",
                "float: the first token as a number, times pi when written with one; within 0.001.",
                "multiple choice: the only lone letter A to F equals the gold.",
                "text: the answer, in lower case, is part of the gold.",
                "int is graded as float; single answer as multiple choice when the gold is a letter, else as text.",
            ),
            official,
            (
                *judging.OWN_WORDING,
                "Without a judge a reply without that JSON needs one and counts as wrong.",
                "A fraction such as 1/2 is read as a number.",
                "An empty answer is wrong; as part of any text it passes there.",
                "The wording of the prompt is our own.",
            ),
            judge=True,
        ),
        "strict": replies.strict_mode(
            strict_rule,
            ("The JSON's 'short answer' where there is one.", "Numbers within 0.001, letters, equal texts."),
        ),
    },
    headline=AVERAGE,
    slices=("subject", "level", "answer_type"),
    scores=(BenchmarkScore("worst_case", worst), BenchmarkScore("robustness", robustness)),
    notes=(
        "The official rule for texts passes any part of the gold, a single letter too; removing backslashes destroys "
        "LaTeX.",
        "Some tables quote the average, some the worst case (Qwen2.5-VL-7B: 50.7 and 21.0): say which.",
        "Variants of one seed question are drawn together in intervals; a limit is best a multiple of ten.",
    ),
)
