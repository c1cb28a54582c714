"""MathVerse (Zhang et al. 2024, arXiv 2403.14624), testmini: 788 problems in five versions, 3,940 questions."""

from __future__ import annotations

from functools import partial
from typing import Any

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
from saccade.evaluation.benchmarks.scoring import ACCURACY, crossed
from saccade.parsing import parse_final
from saccade.types import Sample

VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
TEXT_ONLY = "Text Only"
FILES = ("testmini.json", "testmini.parquet", "testmini-*.parquet", "MathVerse_MINI.tsv", "*.jsonl", "*.json")
TEXT_FILES = ("testmini_text_only.json", "testmini_text_only*.parquet")


def load(place: Place) -> list[Sample]:
    text_only = place.subset == TEXT_ONLY
    configuration = "testmini_text_only" if text_only else "testmini"
    names = TEXT_FILES if text_only else FILES
    found = []
    for table, where, row in rows_of(place, names, ("AI4Math/MathVerse", configuration, configuration)):
        sample = sample_at(where, partial(_sample, table, row, TEXT_ONLY if text_only else None))
        if place.subset in (None, "all") or sample.meta["slices"]["version"] == place.subset:
            found.append(sample)
    if not found:
        raise ValueError(f"{place.data or 'the hub'}: no row has version {place.subset!r}")
    return found


def _sample(table: Table, row: dict[str, Any], version: str | None) -> Sample:
    version = version or text_of(row, "problem_version")
    if version not in (*VERSIONS, TEXT_ONLY):
        raise ValueError(f"field 'problem_version': got {version!r}, expected one of {', '.join(VERSIONS)}")
    kind = text_of(row, "question_type")
    held = row.get("metadata")
    metadata = held if isinstance(held, dict) else row
    slices: dict[str, Any] = {"version": version, "question_type": kind}
    slices |= {name: metadata[name] for name in ("subject", "subfield") if metadata.get(name)}
    for name in ("subject", "subfield"):
        if pairs := crossed(slices, name, "version"):
            slices[f"{name} x version"] = pairs
    choice = kind == "multi-choice"
    meta = {
        "slices": slices,
        "group": text_of(row, "problem_index", "sample_index", "index"),
        "query_wo": row.get("query_wo"),
        "query_cot": row.get("query_cot"),
        "judged_question": row.get("question_for_eval") or row.get("question") or "",
        "options": list("ABCD") if choice else [],
    }
    images = () if version == TEXT_ONLY else table.images(row.get("image"))
    question = row.get("question") or ""
    answer = text_of(row, "answer")
    name = f"{text_of(row, 'sample_index', 'index')}"
    return Sample(name, images, str(question), answer, "choice" if choice else "free_form", meta)


DIRECT = "Look at the image and answer the question directly: the letter of the right option, or the final value."
REASON = "Look at the image, reason first, and then give the letter of the right option, or the final value."


def _query(field: str, own: str) -> Any:
    def write(sample: Sample) -> str:
        given = sample.meta.get(field)
        text = given if isinstance(given, str) and given.strip() else f"{own}\nQuestion: {sample.question}"
        return with_images(sample, text)

    return write


EXTRACTION = (
    ("Find x. Choices: A: 3 B: 4", "So x = 4, which is option B.", "B"),
    ("What is the area?", "The area is half of 6 times 4, so 12 square units.", "12"),
    ("Which statement holds?", "I cannot see the figure well enough to tell.", "null"),
    ("Write the function.", "Its slope is 2 and it meets the axis at -1, so y = 2x - 1.", "y = 2x - 1"),
    ("What is the angle?", "The angle at C is 30 degrees, thus angle D is 60 degrees.", "60 degrees"),
    ("How long is AB? Choices: A: 5 cm B: 7 cm", "AB is 7 cm long.", "7 cm"),
)
SCORING = (
    ("Find x. Choices: A: 3 B: 4", "B", "B", 1),
    ("Find x. Choices: A: 3 B: 4", "B", "4", 1),
    ("How long is AB?", "0.5 m", "50 cm", 1),
    ("Write the function.", "y = 2x - 1", "y = 2x + 1", 0),
    ("What is the angle?", "60", "null", 0),
)


def official(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    if reply.final_text is None:
        return replies.NO_ANSWER
    if judge is None:
        final = parse_final(reply.text).value
        if final is not None and final.strip() == sample.answer:
            return Grade(True, "the gold, word for word", final)
        return judging.undecided(Grade(False, "", final), "extraction and scoring are a judge's")
    form = "Write a letter, a value or an expression, as the reply has it; write null when the reply gives no answer."
    question, judged = str(sample.meta["judged_question"]), []
    try:
        answer = judging.extract(judge, judging.extraction_prompt(question, reply.final_text, EXTRACTION, form))
        judged.append(answer)
        if answer.strip() == sample.answer:
            return Grade(True, "judge: extraction, then word for word", answer, judged=tuple(judged))
        right, answer_text = judging.score(judge, judging.scoring_prompt(question, sample.answer, answer, SCORING))
    except JudgeError as error:
        return judging.undecided(Grade(False, "", judged=tuple(judged)), str(error))
    return Grade(right, "judge: extraction and scoring", answer, judged=(*judged, answer_text))


BENCHMARK = Benchmark(
    name="mathverse",
    title="MathVerse testmini",
    layout="`testmini.json` (a list) beside `images/`, the hub's Parquet (AI4Math/MathVerse), VLMEvalKit's "
    "`MathVerse_MINI.tsv`, or JSONL; `testmini_text_only.json` for the version without images. Fields: sample_index, "
    "problem_index, problem_version, question, image, answer, question_type, metadata{subject, subfield}, query_wo, "
    "query_cot, question_for_eval.",
    load=load,
    prompts={
        "wo": Prompt("mathverse.query_wo.v1", _query("query_wo", DIRECT)),
        "cot": Prompt("mathverse.query_cot.v1", _query("query_cot", REASON)),
    },
    modes={
        "official": Mode(
            "official",
            "ZrrSkywalker/MathVerse, evaluation/extract_answer_s1.py and score_answer_s2.py",
            (
                replies.THOUGHT,
                "A judge extracts the answer, shown six examples; 'null' when there is none.",
                "An extraction equal to the gold, word for word, is right (quick match).",
                "Otherwise a judge compares it with the gold, shown five examples: 1 or 0. It sees question_for_eval.",
                "A letter and the content of its option are the same, as are equal quantities in other units.",
            ),
            official,
            (
                *judging.OWN_WORDING,
                "Without a judge only an answer equal to the gold, word for word, is accepted; all else needs a judge.",
                "The grading of reasoning steps (CoT-E) was never published and is not here.",
            ),
            judge=True,
        ),
        "strict": replies.strict_mode(
            replies.by_task,
            ("Letters A to D for multiple choice, without the content of options.", "Mathematical equality otherwise."),
        ),
    },
    headline=ACCURACY,
    slices=("version", "question_type", "subject", "subfield", "subject x version", "subfield x version"),
    subsets=("all", *VERSIONS, TEXT_ONLY),
    notes=(
        "All five versions weigh the same, so the mean over items is the mean over versions.",
        "Many tables quote only Vision Only: state which. `subset='Vision Only'`.",
        "The five versions of a problem are drawn together in intervals.",
    ),
)
