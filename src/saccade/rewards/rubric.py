"""The rubric: weighted parts that together score a reply."""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from saccade.config import Config
from saccade.rewards.table import PENALTIES, Reward, as_score, bind, is_file
from saccade.types import Completion, Sample, Score

Truncated = Literal["score_zero", "mask", "as_is"]


class PartConfig(Config):
    """One part of a rubric."""

    name: str
    """A name of `REWARDS` or `PENALTIES`, or `path/to/file.py:function`."""
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """A penalty keeps a positive weight: its value is what is negative."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the reward."""

    @model_validator(mode="after")
    def _known(self) -> PartConfig:
        """A name of the tables and its options are checked at once; a file of the user when the rubric is built."""
        if not is_file(self.name):
            bind(self.name, self.options)
        return self


class RubricConfig(Config):
    """A rubric as data: what is rewarded, how much, and what becomes of a reply that hit the length limit."""

    parts: tuple[PartConfig, ...]
    truncated: Truncated = "score_zero"
    """score_zero: total 0, as in Vision-R1; mask: left out of the update (DAPO's overlong filter); as_is: scored."""

    @field_validator("parts")
    @classmethod
    def _some_and_distinct(cls, parts: tuple[PartConfig, ...]) -> tuple[PartConfig, ...]:
        _check([part.name for part in parts])
        return parts

    def build(self) -> Rubric:
        """The rubric; loads the files of a user's own rewards."""
        parts = [Part(p.name, bind(p.name, p.options), p.weight, p.name in PENALTIES) for p in self.parts]
        return Rubric(parts, self.truncated)


@dataclass(frozen=True, slots=True)
class Part:
    """A named function with its weight."""

    name: str
    function: Reward
    weight: float = 1.0
    penalty: bool = False
    """In [-1, 0] rather than [0, 1]. A user's own function may be either."""


class Rubric:
    """Scores a reply: `rubric(completion, sample) -> Score`, total = sum of weight x part.

    A failure of a part (an exception, a value out of range) masks the score: what went wrong here is not the model's.
    """

    def __init__(self, parts: Sequence[Part], truncated: Truncated = "score_zero") -> None:
        _check([part.name for part in parts])
        for part in parts:
            if not part.weight > 0 or not math.isfinite(part.weight):
                raise ValueError(f"part '{part.name}': got weight {part.weight}, expected a positive number")
        self.parts = tuple(parts)
        self.truncated = truncated

    def __call__(self, completion: Completion, sample: Sample) -> Score:
        if completion.truncated and self.truncated == "mask":
            return Score(0.0, "truncated", masked="truncated")
        scores = {part.name: _score(part, completion, sample) for part in self.parts}
        values = {name: score.value for name, score in scores.items()}
        reasons = {name: score.reason for name, score in scores.items() if score.reason}
        masked = next((f"{name}: {score.masked}" for name, score in scores.items() if score.masked), None)
        total = sum(part.weight * values[part.name] for part in self.parts)
        reason = next(iter(reasons.values()), None)
        if masked:
            total = 0.0
        elif completion.truncated and self.truncated == "score_zero":
            total, reason = 0.0, "truncated"
        return Score(total, reason, values, reasons, masked)


def _check(names: Sequence[str]) -> None:
    if not names:
        raise ValueError("a rubric needs at least one part, got none")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"part '{twice}' is given twice; give it once, with the sum of the weights")


def _score(part: Part, completion: Completion, sample: Sample) -> Score:
    """The part's score, or a masked one when our code (or the user's) fails."""
    try:
        score = as_score(part.function(completion, sample))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is no fault of the model
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Score(0.0, masked=f"{type(error).__name__}: {error} ({where.filename}:{where.lineno} in {where.name})")
    low, high = (-1.0, 0.0) if part.penalty else (-1.0 if is_file(part.name) else 0.0, 1.0)
    if not low <= score.value <= high:  # NaN too
        return Score(0.0, masked=f"got {score.value}, expected a value in [{low:g}, {high:g}]")
    return score
