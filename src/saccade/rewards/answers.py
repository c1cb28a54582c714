"""Rewards of short answers: 1 when the inside of the answer tag is right, else 0.

Without an answer tag there is no answer, whatever the prose says: 0, 'no answer tag'. A gold that cannot be graded
masks the rollout.
"""

from __future__ import annotations

from collections.abc import Callable

from saccade import grading
from saccade.grading import Verdict
from saccade.parsing import read_reply
from saccade.types import Completion, Sample, Score

NO_ANSWER = "no answer tag"


def choice(completion: Completion, sample: Sample) -> Score:
    """The gold letter, by letter or by the text of its option (`sample.meta["options"]`)."""
    options = tuple(sample.meta.get("options") or ())
    return graded(completion, lambda answer: grading.grade_choice(answer, sample.answer, options))


def number(completion: Completion, sample: Sample, relative: float = 0.0, absolute: float = 0.0) -> Score:
    """The gold number; `relative` (a fraction of the gold) and `absolute` say how far off is still right."""
    return graded(completion, lambda answer: grading.grade_number(answer, sample.answer, relative, absolute))


def value(completion: Completion, sample: Sample, relative: float = 0.0, absolute: float = 0.0) -> Score:
    """As `number` when the gold is a number, as `exact_text` when it is text."""
    return graded(completion, lambda answer: grading.grade_value(answer, sample.answer, relative, absolute))


def exact_text(completion: Completion, sample: Sample) -> Score:
    """The gold text, but for case, white space and closing punctuation."""
    return graded(completion, lambda answer: grading.grade_text(answer, sample.answer))


def yes_no(completion: Completion, sample: Sample) -> Score:
    """The gold yes or no, read by whole words."""
    return graded(completion, lambda answer: grading.grade_yes_no(answer, sample.answer))


def math(completion: Completion, sample: Sample) -> Score:
    """An expression equal to the gold."""
    return graded(completion, lambda answer: grading.grade_math(answer, sample.answer))


def graded(completion: Completion, grade: Callable[[str], Verdict]) -> Score:
    """The verdict on the inside of the answer tag as a score of 1 or 0."""
    answer = read_reply(completion.text).answer
    if answer is None:
        return Score(0.0, NO_ANSWER)
    verdict = grade(answer)
    if verdict.right is None:
        return Score(0.0, masked=f"gold cannot be graded: {verdict.detail}")
    return Score(float(verdict.right), None if verdict.right else verdict.detail or "wrong")
