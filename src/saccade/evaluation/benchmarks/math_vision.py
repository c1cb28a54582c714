"""MATH-Vision (Wang et al. 2024, arXiv 2402.14804): 3,040 competition problems in 16 subjects and 5 levels."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

from saccade.evaluation.benchmarks import replies
from saccade.evaluation.benchmarks.benchmark import Benchmark, BenchmarkJudge, Grade, Mode, ParsedReply, Place, Prompt
from saccade.evaluation.benchmarks.prompts import BOXED, SHORT, with_images
from saccade.evaluation.benchmarks.rows import find, samples_of
from saccade.evaluation.benchmarks.scoring import ACCURACY
from saccade.grading.latex import evaluate, normal, too_large
from saccade.parsing import read_boxed
from saccade.types import Sample

FILES = ("test.jsonl", "test.parquet", "data/test-*.parquet", "test-*.parquet")
MINI_FILES = ("testmini.jsonl", "testmini.parquet", "data/testmini-*.parquet", "testmini-*.parquet")
DECIMALS = 2
HUB = Path("MathLLMs/MathVision")


def load(place: Place) -> list[Sample]:
    mini = place.subset != "test"
    if place.data is None:
        readings = [place.reading(HUB, hub=True, split="testmini" if mini else "test")]
    else:
        files = find(place, MINI_FILES if mini else FILES)
        if any(file.suffix == ".tsv" for file in files):
            raise ValueError(f"{files[0]}: VLMEvalKit's TSV of MATH-Vision is not read; give the JSONL or Parquet file")
        readings = [place.reading(file) for file in files]
    found = []
    for reading in readings:
        for _, sample in samples_of("math_vision", reading):
            slices = {name: sample.meta[name] for name in ("level", "subject") if sample.meta.get(name) is not None}
            slices["question_type"] = "multi_choice" if sample.meta["options"] else "free_form"
            found.append(replace(sample, meta={**sample.meta, "slices": slices}))
    return found


# ------------------------------------------------------------------------------------------------------------- prompts


def question(sample: Sample) -> str:
    """Question and lettered options; without the options when they are only letters."""
    options = list(sample.meta["options"])
    lines = [sample.question]
    if options and options != list("ABCDE")[: len(options)]:
        lines += [f"({chr(65 + i)}) {option}" for i, option in enumerate(options)]
    return with_images(sample, "\n".join(lines))


# ------------------------------------------------------------------------------------------------------------ official

_SAYS = re.compile(
    r"(?:the final answer is|the answer is|the correct answer is|the answer should be|"
    r"The final answer is|The answer is|The correct answer is|The answer should be)"
)
_DROPPED = (
    r"\left", r"\right", r"\displaystyle", r"\text", r"\mathrm", r"\!", r"\,", r"\;", "^{\\circ}", "^\\circ", "°",
    "degrees", "degree", "km", "m^3", "cm", "\\%", "%", "$", "units", "unit", " ",
)  # fmt: skip


def extract(answer_text: str) -> tuple[str, str]:
    """(answer, rule) as the official script finds it in a reply."""
    answer_text, how = answer_text.strip(), "whole reply"
    for letter in "ABCDE":
        ends = (f" {letter}.", f" ({letter}).")
        starts = (f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")
        if answer_text.endswith(ends) or answer_text.startswith(starts):
            answer_text, how = letter, "letter at an end"
    tail = answer_text.rsplit("is ", 1)[-1].rstrip(".")
    if how != "letter at an end" and "is " in answer_text and _number(tail) is not None:
        answer_text, how = tail, "number after 'is'"
    boxed = read_boxed(answer_text)
    if boxed is not None:
        return boxed, "boxed"
    cues = list(_SAYS.finditer(answer_text))
    if cues:
        answer_text = answer_text[cues[-1].end() :].strip().split("\n")[0].split(". ")[0]
        how = "after 'the answer is'"
    return answer_text, how


def clean(text: str) -> str:
    """The official LaTeX clean-up: what follows the last = or approximately-equal sign, without units."""
    text = text.strip().rstrip(".").lstrip(":").strip()
    for sign in ("\\approx", "≈", "="):
        text = text.split(sign)[-1]
    for letter in "abcdef":
        text = text.replace(f"({letter})", letter).replace(f"({letter.upper()})", letter.upper())
    for piece in _DROPPED:
        text = text.replace(piece, "")
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").strip()
    return text[1:-1] if text.startswith("{") and text.endswith("}") else text


def equal(left: str, right: str) -> tuple[bool, str]:
    """(equal, rule): the same text, tuples of numbers rounded to 2 decimals, or numbers equal at 2 decimals."""
    if left == right or left.casefold() == right.casefold():
        return bool(left), "same text"
    mine, theirs = _tuple(left), _tuple(right)
    if mine is not None and theirs is not None:
        return mine == theirs, "numbers at 2 decimals"
    if not left or not right:
        return False, "nothing"
    mine_normal, theirs_normal = normal(left), normal(right)
    if mine_normal != theirs_normal and (_overflows(mine_normal) or _overflows(theirs_normal)):
        return False, "beyond floats"
    return replies.symbolic(mine_normal, theirs_normal), "symbolic"


def _tuple(text: str) -> tuple[float, ...] | None:
    """The numbers of '(1, 2)' or '3', rounded; None when a part is none."""
    inside = text[1:-1] if len(text) > 1 and text[0] in "([" and text[-1] in ")]" else text
    numbers = [_number(part) for part in inside.split(",")]
    return None if any(n is None for n in numbers) else tuple(round(n, DECIMALS) for n in numbers if n is not None)


def _overflows(expression: str) -> bool:
    """Whether a normal form is a number that no float holds; official equality of such numbers is an accident."""
    try:
        return math.isinf(float(expression))
    except ValueError:
        return too_large(expression)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        found = evaluate(normal(text)) if text.strip() else None
        return None if found is None else found.number
    return value if math.isfinite(value) else None


def official(reply: ParsedReply, sample: Sample, judge: BenchmarkJudge | None) -> Grade:
    if reply.final_text is None or not reply.final_text.strip():
        return replies.NO_ANSWER
    found, how = extract(reply.final_text)
    answer, options = clean(found), list(sample.meta["options"])
    golds = [("the gold", clean(sample.answer))]
    if options and sample.answer in "ABCDE"[: len(options)]:
        golds.append(("the option's content", clean(options["ABCDE".index(sample.answer)])))
    for name, gold in golds:
        right, rule = equal(answer, gold)
        if right:
            return Grade(True, f"{how}: {name}: {rule}", answer)
    return Grade(False, how, answer, f"not {sample.answer}")


BENCHMARK = Benchmark(
    name="math_vision",
    title="MATH-Vision",
    layout="`test.jsonl` or `testmini.jsonl` (or Parquet) beside `images/`; the hub's MathLLMs/MathVision. Fields: id, "
    "question with `<image1>` markers, options (may be empty or only letters), answer, image or decoded_image, level, "
    "subject.",
    load=load,
    prompts={
        "direct": Prompt("math_vision.direct.v1", lambda sample: question(sample) + SHORT),
        "cot": Prompt("math_vision.cot.v1", lambda sample: question(sample) + BOXED),
        "bare": Prompt("math_vision.bare.v1", question),
    },
    modes={
        "official": Mode(
            "official",
            "MathLLM/MATH-V, evaluation/evaluate.py",
            (
                replies.THOUGHT,
                "A reply that ends with ' A.' or ' (A).' or begins with a line 'A' or '(A)' is that letter.",
                "Else a number after the last 'is '.",
                "Else the last \\boxed.",
                "Else what follows the last 'the (final, correct) answer is' or 'the answer should be', up to the end "
                "of the line or sentence; else the whole reply.",
                "Clean-up: what follows the last = or \\approx; degree signs, cm, km, m^3, percent, dollars, "
                "\\left, \\right, \\text and spaces go.",
                "Compared with the gold letter and with that option's content.",
                "Equal: the same text (case aside), tuples of numbers rounded to 2 decimals, numbers equal at 2 "
                "decimals.",
            ),
            official,
            (
                "The script evaluates model text with Python's eval and latex2sympy; here plain arithmetic has its "
                "own parser and the rest goes to math-verify in a process that can be killed.",
                "Numbers beyond plain arithmetic (logarithms, sines) are equal at math-verify's six decimals, not two.",
                "Numbers beyond floats (a tower of powers) equal only the same text; the script's eval hangs or fails.",
                "The list of deleted units is shorter than the script's may be.",
                "Wordings of the prompts are our own.",
            ),
        ),
        "strict": replies.strict_mode(
            replies.by_task,
            ("Choices by letter or by the text of exactly one option.", "Mathematical equality otherwise."),
        ),
    },
    headline=ACCURACY,
    slices=("subject", "level", "question_type"),
    subsets=("testmini", "test"),
    notes=(
        "Vision-R1 trained on MATH-Vision; do not report it for such a model.",
        "The official rules are lenient: 12.504 passes for 12.5 and 0.334 for 1/3 (two decimals), units and "
        "percent signs do not count, nor does what precedes the last =, and the option's content passes for its "
        "letter. Mode strict has none of this.",
    ),
)
