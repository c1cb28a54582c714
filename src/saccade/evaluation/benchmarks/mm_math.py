"""MM-Math (Sun et al. 2024, arXiv 2404.05091): open-ended school geometry and algebra, graded by rules only."""

from __future__ import annotations

import os
import re
from functools import partial
from typing import Any

from saccade.evaluation.benchmarks import replies
from saccade.evaluation.benchmarks.benchmark import Benchmark, BenchmarkJudge, Grade, Mode, ParsedReply, Place
from saccade.evaluation.benchmarks.prompts import BOXED, asking
from saccade.evaluation.benchmarks.rows import Table, rows_of, sample_at, text_of
from saccade.evaluation.benchmarks.scoring import ACCURACY
from saccade.grading.latex import evaluate, normal
from saccade.parsing import read_all_boxed
from saccade.types import Sample

FILES = ("MM_Math.jsonl", "MM_Math*.parquet", "MM-Math.tsv", "*.jsonl")
TOLERANCE = 0.0101
SYMBOLIC = 1e-3


def load(place: Place) -> list[Sample]:
    found = []
    for number, (table, where, row) in enumerate(rows_of(place, FILES, ("THU-KEG/MM_Math", None, "train"))):
        found.append(sample_at(where, partial(_sample, table, row, number)))
    return found


def _sample(table: Table, row: dict[str, Any], number: int) -> Sample:
    if row.get("answer") not in (None, ""):
        gold = text_of(row, "answer")
    else:
        boxes = read_all_boxed(text_of(row, "solution"))
        if not boxes:
            raise ValueError("field 'solution' holds no \\boxed, and there is no 'answer'")
        gold = ",".join(boxes)
    slices = {
        "difficulty": row.get("difficulty") or row.get("difficult"),
        "year": row.get("year"),
        "knowledge_l1": row.get("knowledge_l1"),
        "knowledge_l2": row.get("knowledge_l2"),
    }
    known = row.get("knowledge")
    if isinstance(known, list):
        slices["knowledge_l1"] = sorted({str(one[0] if isinstance(one, list) and one else one) for one in known})
    picture = row.get("image") or row.get("file_name")
    if isinstance(picture, str) and table.file is not None and not os.path.exists(table.reading.image_folder / picture):
        inside = [f"{folder}/{picture}" for folder in ("Image", "images", "Image/Image")]
        picture = next((name for name in inside if os.path.isfile(table.reading.image_folder / name)), picture)
    meta = {"slices": {name: value for name, value in slices.items() if value not in (None, "", [])}}
    name = str(row.get("id") or row.get("index") or number)
    return Sample(name, table.images(picture), text_of(row, "question"), gold, "free_form", meta)


# ---------------------------------------------------------------------------------------------------- finding, cleaning

_INLINE = re.compile(r"\$([^$]+)\$")
_UNITS = re.compile(r"(?<![A-Za-z\\])(?:cm|dm|km|mm|m)(?:\^\{?[23]\}?|[²³])?(?![A-Za-z])|平方厘米|平方米|厘米|分米|米")
_DEGREES = re.compile(r"\^\s?\{?\s?\\circ\s?\}?|\\degree|°|度")
_CJK = re.compile(r"[\u4e00-\u9fff]")
_WRAPPED = re.compile(r"\\(?:text|mathrm|mathbf)\s?\{([^{}]*)\}")
_FULL_WIDTH = str.maketrans(",;:()=。【】", ",;:()=.[]")


def extract(answer_text: str) -> tuple[str, str]:
    """(answer, rule): all boxes joined by commas, else the formulas of the last line, else everything."""
    boxes = [box for box in read_all_boxed(answer_text) if box]
    if boxes:
        return ",".join(boxes), "boxed"
    lines = answer_text.strip().splitlines()
    inline = _INLINE.findall(lines[-1]) if lines else []
    return (",".join(inline), "formulas of the last line") if inline else (answer_text, "whole reply")


def clean(text: str) -> str:
    """Units, degree marks, brackets' sizes and stray Chinese go; a text that is all Chinese stays."""
    text = _WRAPPED.sub(r"\1", text.translate(_FULL_WIDTH)).replace("\\left", "").replace("\\right", "")
    text = _DEGREES.sub("", text.replace("$", "").replace("\\,", "").replace("\\ ", " "))
    bare = _UNITS.sub("", text)
    if _CJK.search(bare) and re.search(r"[0-9A-Za-z\\]", bare):
        bare = _CJK.sub("", bare)
    return bare.strip().rstrip(".").strip()


def parts(text: str) -> list[str]:
    """The answers in a text: a double inequality as an interval, else split at commas outside brackets; plus-minus is
    two."""
    text = _as_interval(text)
    found, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            found.append(text[start:i])
            start = i + 1
    found.append(text[start:])
    whole = []
    for one in (part.strip() for part in found):
        signs = [mark for mark in ("\\pm", "±") if mark in one]
        whole += [one.replace(signs[0], "+"), one.replace(signs[0], "-")] if signs else [one]
    return [one.lstrip("+").strip() for one in whole if one]


_LESS = re.compile(r"<=?|≤|\\leqslant|\\leq?(?![a-z])")


def _as_interval(text: str) -> str:
    first = _LESS.search(text, 1)
    second = _LESS.search(text, first.end() + 1) if first else None
    if not first or not second or second.end() == len(text) or "," in text or "\n" in text:
        return text
    low, high = text[: first.start()].strip(), text[second.end() :].strip()
    return f"{'(' if first[0] == '<' else '['}{low},{high}{')' if second[0] == '<' else ']'}"


# ------------------------------------------------------------------------------------------------------------ comparing


def same(answer: str, gold: str) -> str | None:
    """The rule by which one answer equals one gold, or None."""
    mine, theirs = normal(answer), normal(gold)
    if mine == theirs:
        return "string"
    if (ends := _interval(answer)) and (wanted := _interval(gold)):
        brackets = (answer[0], answer[-1]) == (gold[0], gold[-1])
        pairs = zip(ends, wanted, strict=True)
        return "interval" if brackets and all(same(a, b) for a, b in pairs) else None
    left, right = evaluate(mine) if mine else None, evaluate(theirs) if theirs else None
    if left is not None and right is not None:
        near = any(abs(left.number - right.number * factor) <= TOLERANCE for factor in (1.0, 100.0, 0.01))
        return "number" if near else None
    if not mine or not theirs:
        return None
    return "symbolic" if replies.symbolic(mine, theirs) else None


def _interval(text: str) -> list[str] | None:
    text = text.strip()
    if len(text) < 5 or text[0] not in "([" or text[-1] not in ")]":
        return None
    ends = parts(text[1:-1])
    return ends if len(ends) == 2 else None


def matched(answers: list[str], golds: list[str]) -> list[str] | None:
    """The rules of a one-to-one matching in any order, or None."""
    if len(answers) != len(golds):
        return None
    left, rules = list(answers), []
    for gold in golds:
        hit = next(((one, rule) for one in left if (rule := same(one, gold))), None)
        if hit is None:
            return None
        left.remove(hit[0])
        rules.append(hit[1])
    return rules


def official(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    if reply.final_text is None or not reply.final_text.strip():
        return replies.NO_ANSWER
    found, how = extract(reply.final_text)
    answers, golds = parts(clean(found)), parts(clean(str(sample.answer)))
    if not golds:
        return Grade(None, "gold", found, f"gold {sample.answer!r} holds no answer")
    rules = matched(answers, golds)
    if rules is None:
        detail = f"{len(answers)} answers for {len(golds)}" if len(answers) != len(golds) else "another value"
        return Grade(False, how, found, detail)
    return Grade(True, f"{how}: {'+'.join(sorted(set(rules)))}", found)


BENCHMARK = Benchmark(
    name="mm_math",
    title="MM-Math",
    layout="`MM_Math.jsonl` beside the unpacked `Image/`, the hub's THU-KEG/MM_Math, VLMEvalKit's `MM-Math.tsv`, or "
    "JSONL. Fields: question, file_name (or image), solution (the gold in \\boxed) or answer, difficult, year, "
    "knowledge.",
    load=load,
    prompts={"bare": asking("mm_math.bare.v1"), "boxed": asking("mm_math.boxed.v1", BOXED)},
    modes={
        "official": Mode(
            "official",
            "THU-KEG/MM_Math by way of VLMEvalKit's MM-Math grader (OlympiadBench's)",
            (
                replies.THOUGHT,
                "All \\boxed contents, joined by commas; else the $..$ of the last line; else the whole reply.",
                "cm, dm, m, km, their squares and Chinese names, degree marks, \\left and \\right go; full-width "
                "punctuation becomes ASCII; stray Chinese is removed unless the whole answer is Chinese.",
                "a < x < b becomes an interval; the rest is split at commas outside brackets; plus-minus is two "
                "answers.",
                "Answers and golds are matched one to one, in any order; another number of answers is wrong.",
                "A pair: the same text; else intervals with the same brackets and equal ends; else numbers within "
                "0.0101, also of 100 times and a hundredth of the gold; else symbolic equality.",
            ),
            official,
            (
                "The script parses with sympy in its own process under a 30 s alarm; here math-verify decides symbolic "
                "equality and equations, in a process that can be killed, and its tolerance replaces the script's "
                f"{SYMBOLIC:g}.",
                "Equations are equal as math-verify has it, not when their ratio is a whole number.",
            ),
        ),
        "strict": replies.strict_mode(replies.math, ("Mathematical equality with the whole gold.",)),
    },
    headline=ACCURACY,
    slices=("difficulty", "year", "knowledge_l1", "knowledge_l2"),
    notes=(
        "The rule of 100 accepts 50 for 0.5 and 300 for 3.",
        "Every box of a reply joins the answer, so a box around an intermediate value makes it wrong.",
        "The official prompt is the bare question; `prompt=boxed` asks for a box.",
    ),
)
