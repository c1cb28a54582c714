"""Graders: is an answer right? Each returns a `Verdict`; model text never raises."""

from __future__ import annotations

from saccade.grading.answers import (
    grade_number,
    grade_similarity,
    grade_text,
    grade_value,
    grade_yes_no,
)
from saccade.grading.choice import grade_choice, grade_choices, letters_for
from saccade.grading.kinds import ALL_KINDS, Graded, grade_answer, grade_reply
from saccade.grading.math import grade_math
from saccade.grading.numbers import MathRules
from saccade.grading.tolerances import TOLERANCES, Tolerance, grade_within
from saccade.grading.verdict import Verdict

__all__ = [
    "ALL_KINDS",
    "TOLERANCES",
    "Graded",
    "MathRules",
    "Tolerance",
    "Verdict",
    "grade_answer",
    "grade_choice",
    "grade_choices",
    "grade_math",
    "grade_number",
    "grade_reply",
    "grade_similarity",
    "grade_text",
    "grade_value",
    "grade_within",
    "grade_yes_no",
    "letters_for",
]
