"""What a grader says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is right, by which rule, and a few words on it."""

    right: bool | None
    """None when the gold itself cannot be graded: nobody's answer is wrong then."""
    route: str
    """The rule that decided, to be counted: 'choice', 'number', 'box', 'math: exact', 'no answer'."""
    detail: str = ""
    value: float | None = None
    """The soft measure behind the verdict where there is one (IoU, F1), in [0, 1]."""
