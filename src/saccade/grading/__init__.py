"""Graders: is an answer right? Each returns a `Verdict`; model text never raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade.lazy import first_use

if TYPE_CHECKING:
    from saccade.grading.answers import (
        fold,
        grade_number,
        grade_similarity,
        grade_text,
        grade_value,
        grade_yes_no,
    )
    from saccade.grading.choice import grade_choice, grade_choices, letters_for
    from saccade.grading.detection import average_precision, f1, match
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
    "average_precision",
    "f1",
    "fold",
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
    "match",
]

_PLACES = {
    "fold": "answers",
    "grade_number": "answers",
    "grade_similarity": "answers",
    "grade_text": "answers",
    "grade_value": "answers",
    "grade_yes_no": "answers",
    "grade_choice": "choice",
    "grade_choices": "choice",
    "letters_for": "choice",
    "average_precision": "detection",
    "f1": "detection",
    "match": "detection",
    "ALL_KINDS": "kinds",
    "Graded": "kinds",
    "grade_answer": "kinds",
    "grade_reply": "kinds",
    "grade_math": "math",
    "MathRules": "numbers",
    "TOLERANCES": "tolerances",
    "Tolerance": "tolerances",
    "grade_within": "tolerances",
    "Verdict": "verdict",
}

__getattr__ = first_use(__name__, _PLACES)
