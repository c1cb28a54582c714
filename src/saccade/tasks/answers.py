"""Tasks whose answer is a few characters: a number, a letter, yes or no, words, an expression."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from saccade import grading
from saccade.grading import Verdict
from saccade.parsing import read_yes_no
from saccade.rewards import PartConfig
from saccade.tasks.task import Task, rubrics
from saccade.types import Frame, Sample


def as_text(sample: Sample, frames: Sequence[Frame]) -> str:
    """The gold unchanged: '3', 'red', '1/2'. A whole float is written without a decimal point."""
    answer = sample.answer
    return str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer).strip()


def as_letter(sample: Sample, frames: Sequence[Frame]) -> str:
    """The gold letter, upper case."""
    return str(sample.answer).strip().upper()


def as_letters(sample: Sample, frames: Sequence[Frame]) -> str:
    """The gold letters, upper case: 'A, C'."""
    return ", ".join(str(one).strip().upper() for one in sample.answer)


def as_yes_no(sample: Sample, frames: Sequence[Frame]) -> str:
    """'yes' or 'no'."""
    value = sample.answer if isinstance(sample.answer, bool) else read_yes_no(str(sample.answer))
    if value is None:
        raise ValueError(f"sample {sample.id!r}: got answer {sample.answer!r}, expected yes or no")
    return "yes" if value else "no"


def _short(
    name: str,
    reward: str,
    grade: Callable[..., Verdict],
    writer: Callable[..., str] = as_text,
    images: int | None = None,
) -> Task:
    """A task whose grader needs only the answer and the gold."""

    def grader(answer: str, sample: Sample, frames: Sequence[Frame]) -> Verdict:
        return grade(answer, sample.answer)

    return Task(name, "bare", rubrics(PartConfig(name=reward)), writer, grader, images)


def _choice(answer: str, sample: Sample, frames: Sequence[Frame]) -> Verdict:
    return grading.grade_choice(answer, sample.answer, tuple(sample.meta.get("options") or ()))


def _chart_qa(answer: str, sample: Sample, frames: Sequence[Frame]) -> Verdict:
    return grading.grade_value(answer, sample.answer, RELAXED["relative"])


def _one_of(answer: str, sample: Sample, frames: Sequence[Frame]) -> Verdict:
    """Right when the answer is the gold text, or any of a list of gold texts."""
    golds = (sample.answer or [""]) if isinstance(sample.answer, list | tuple) else [sample.answer]
    verdicts = [grading.grade_text(answer, gold) for gold in golds]
    return next((one for one in verdicts if one.right), verdicts[0])


def as_first_text(sample: Sample, frames: Sequence[Frame]) -> str:
    """The gold text, or the first of several that will do."""
    answer = sample.answer
    return str(answer[0] if isinstance(answer, list | tuple) and answer else answer).strip()


MATHEMATICS = "free_form"
"""The task whose grader may ask the symbolic check in another process."""
RELAXED = {"relative": 0.05}
"""ChartQA's relaxed accuracy (Masry et al. 2022, arXiv 2203.10244): a number within 5 %."""

ANSWER_TASKS = (
    _short("count", "number", grading.grade_number),
    _short("arithmetic", "number", grading.grade_number),
    _short("compare", "value", grading.grade_value),
    _short("chart", "value", grading.grade_value),
    _short("geometry", "value", grading.grade_value),
    _short("yes_no", "yes_no", grading.grade_yes_no, as_yes_no),
    _short("text", "exact_text", grading.grade_text),
    _short(MATHEMATICS, "math", grading.grade_math),
    _short("gui_defect", "exact_text", grading.grade_text, images=2),  # a screenshot before and one after
    Task("chart_qa", "bare", rubrics(PartConfig(name="value", options=RELAXED)), as_text, _chart_qa),
    Task(
        "ocr",
        "bare",
        rubrics(PartConfig(name="char_similarity"), PartConfig(name="char_similarity", options={"spaces": True})),
        as_first_text,
        _one_of,
    ),
    Task("choice", "bare", rubrics(PartConfig(name="choice")), as_letter, _choice),
    _short("choices", "choices", grading.grade_choices, as_letters),
)
