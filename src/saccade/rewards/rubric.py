"""The rubric: weighted parts, gates and penalties that together score a reply."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from saccade.config import Config
from saccade.rewards import own
from saccade.rewards.naming import as_score, is_file
from saccade.rewards.options import Where
from saccade.rewards.row_reward import row_reward
from saccade.rewards.table import PENALTIES, WRAPPERS, Reward, bind, canonical, placed, reads_answer
from saccade.types import Completion, Sample, Score
from saccade.workers.channel import clean

Truncated = Literal["score_zero", "mask", "as_is"]
Gate = Literal["multiplies", "zeroes"]
RowReward = Callable[[str, dict[str, Any]], Reward]


class PartConfig(Config):
    """One part of a rubric."""

    name: str
    """A name of `REWARDS` or `PENALTIES`, or `path/to/file.py:function`."""
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Positive also for a penalty, whose value is negative."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the reward."""
    where: Where = "tag"
    """Location of the answer: `tag`, `boxed`, or `final`, which is where evaluation finds it. Also applies to a row's
    reward (`by_row`)."""
    gate: Gate | None = None
    """Acts as a gate: multiplies the sum of the other rewards, or sets it to 0 unless the part is 1."""
    by_row: bool = False
    """A row that names its own reward (`meta.reward`, VLM-R1's `accu_reward_method`) overrides this part's reward."""
    deadline_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Only for your own reward: seconds per reply (default 30), after which it is masked."""
    workers: int | None = Field(default=None, ge=1)
    """Only for your own reward: number of scoring processes (default 1); coroutines need only one."""

    memory_gb: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Only for your own reward: data that each of its processes may allocate (default 16), its model included."""

    @model_validator(mode="after")
    def _known(self) -> PartConfig:
        """Built-in names and their options are checked here; a user's file when the rubric is built."""
        if self.gate is not None and canonical(self.name) in PENALTIES:
            raise ValueError(f"part '{self.name}': a penalty cannot be a gate, because it is never 1; remove 'gate'")
        if self.gate is not None and self.weight != 1.0:
            raise ValueError(f"part '{self.name}': a gate takes no weight; remove it")
        self._check_where()
        if not is_file(self.name):
            bind(self.name, self._options())
            for key in ("deadline_s", "workers", "memory_gb"):
                if getattr(self, key) is not None:
                    raise ValueError(f"part '{self.name}': '{key}' is only for your own reward (file.py:function)")
        return self

    def _check_where(self) -> None:
        if self.where == "tag":
            return
        if is_file(self.name) or not reads_answer(self.name):
            raise ValueError(f"part '{self.name}': 'where' is not an option of this reward; remove it")
        if "where" in self.options:
            raise ValueError(f"part '{self.name}': 'where' is given twice; remove it under options")

    def _options(self) -> dict[str, Any]:
        return placed(self.name, self.options, self.where)

    def build(self) -> Part:
        """The part; starts the process of a user's own reward."""
        if is_file(self.name):
            function: Reward = own.load(self.name, self.options, self.deadline_s, self.workers, self.memory_gb)
        else:
            function = bind(self.name, self._options())
        penalty = canonical(self.name) in PENALTIES
        return Part(self.name, function, self.weight, penalty, self.gate, self._row_override() if self.by_row else None)

    def _row_override(self) -> RowReward:
        """A reward that wraps another wraps the one that the row names. Names without options bind once."""

        def bound(name: str, options: dict[str, Any]) -> Reward:
            options = placed(name, options, self.where)
            if canonical(self.name) in WRAPPERS:
                return bind(self.name, {**self.options, "accuracy": name, "options": options})
            return bind(name, options)

        once = lru_cache(maxsize=256)(lambda name: bound(name, {}))
        return lambda name, options: bound(name, options) if options else once(name)


class RubricConfig(Config):
    """A rubric as data: its parts, their weights, and the treatment of replies that hit the length limit."""

    parts: tuple[PartConfig, ...]
    truncated: Truncated = "score_zero"
    """score_zero: no reward, as in Vision-R1, but penalties stay, so that running into the limit never pays; mask:
    excluded from the update (DAPO's overlong filter); as_is: scored."""

    @field_validator("parts")
    @classmethod
    def _some_and_distinct(cls, parts: tuple[PartConfig, ...]) -> tuple[PartConfig, ...]:
        _check([(part.name, part.gate) for part in parts])
        return parts

    def build(self) -> Rubric:
        """The rubric; loads the files of a user's own rewards."""
        return Rubric([part.build() for part in self.parts], self.truncated)


@dataclass(frozen=True, slots=True)
class Part:
    """A named function with its weight."""

    name: str
    function: Reward
    weight: float = 1.0
    penalty: bool = False
    """In [-1, 0] rather than [0, 1]. A user's own function may be either."""
    gate: Gate | None = None
    row_override: RowReward | None = None
    """Maps name and options of the reward that a row names to the function used instead."""


class Rubric:
    """Scores a reply: `rubric(completion, sample) -> Score`.

    score = TASKS["count"].rubric("hard")(completion, sample)
    score.value, score.reason, score.parts

    total = gates * sum of weight x reward + sum of weight x penalty. Gates do not apply to penalties, otherwise failing
    the gate would avoid them; nor does the zero of a truncated reply. A failure of a part (an exception, a value out of
    range) masks the score, because it is not the model's fault.
    """

    def __init__(self, parts: Sequence[Part], truncated: Truncated = "score_zero") -> None:
        _check([(part.name, part.gate) for part in parts])
        for part in parts:
            if not part.weight > 0 or not math.isfinite(part.weight):
                raise ValueError(f"part '{part.name}': got weight {part.weight}, expected a positive number")
        self.parts = tuple(parts)
        self.truncated = truncated

    def __call__(self, completion: Completion, sample: Sample) -> Score:
        if self.excludes(completion):
            return self.combine(completion, {})
        return self.combine(completion, {p.name: score_part(p, completion, sample) for p in self.parts_for(sample)})

    def excludes(self, completion: Completion) -> bool:
        """True for a reply that is masked without scoring."""
        return completion.truncated and self.truncated == "mask"

    def parts_for(self, sample: Sample) -> tuple[Part, ...]:
        """The parts, with the row's own reward in the parts with `by_row`. ValueError for an invalid one."""
        named = row_reward(sample) if any(part.row_override for part in self.parts) else None
        if named is None:
            return self.parts
        return tuple(replace(p, function=p.row_override(*named)) if p.row_override else p for p in self.parts)

    def combine(self, completion: Completion, scores: Mapping[str, Score]) -> Score:
        """The total of scores by part name, as `__call__` gives it."""
        if self.excludes(completion):
            return Score(0.0, "truncated", masked="truncated", truncated=True)
        values = {name: score.value for name, score in scores.items()}
        reasons = {name: score.reason for name, score in scores.items() if score.reason}
        masked = next((f"{name}: {score.masked}" for name, score in scores.items() if score.masked), None)
        total, reason = self._total(values), next(iter(reasons.values()), None)
        if masked:
            total = 0.0
        elif completion.truncated and self.truncated == "score_zero":
            kept = [p.weight * min(values[p.name], 0.0) for p in self.parts if p.gate is None]
            total, reason = sum(kept), "truncated"
        return Score(total, reason, values, reasons, masked)

    def shares(self, completion: Completion, score: Score) -> dict[str, float]:
        """What each part but the gates adds to the total, without its weight: after gates and the zero of a truncated
        reply. Empty for a masked score."""
        if score.masked is not None:
            return {}
        if completion.truncated and self.truncated == "score_zero":
            return {p.name: min(score.parts[p.name], 0.0) for p in self.parts if p.gate is None}
        gates = self._open_share(score.parts)
        return {p.name: score.parts[p.name] * (1.0 if p.penalty else gates) for p in self.parts if p.gate is None}

    def _open_share(self, values: Mapping[str, float]) -> float:
        open_share = 1.0
        for part in self.parts:
            if part.gate is not None:
                open_share *= values[part.name] if part.gate == "multiplies" else float(values[part.name] >= 1.0)
        return open_share

    def _total(self, values: Mapping[str, float]) -> float:
        open_share = self._open_share(values)
        rewards = sum(p.weight * values[p.name] for p in self.parts if p.gate is None and not p.penalty)
        return open_share * rewards + sum(p.weight * values[p.name] for p in self.parts if p.penalty)


def _check(parts: Sequence[tuple[str, Gate | None]]) -> None:
    names = [canonical(name) for name, _ in parts]
    if not names:
        raise ValueError("a rubric needs at least one part, got none")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"part '{twice}' is given twice; give it once, with the sum of the weights")
    if all(gate is not None or name in PENALTIES for name, (_, gate) in zip(names, parts, strict=True)) and any(
        gate is not None for _, gate in parts
    ):
        raise ValueError("a rubric with a gate needs a reward for it to act on; got gates and penalties only")


def score_part(part: Part, completion: Completion, sample: Sample) -> Score:
    """The part's score, or a masked one when our code (or the user's) fails."""
    try:
        score = as_score(part.function(completion, sample))
    except Exception as error:  # noqa: BLE001 - never the model's fault
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {clean(error)} ({where.filename}:{where.lineno} in {where.name})"
        return Score(0.0, masked=text)
    return in_range(part, score)


def in_range(part: Part, score: Score) -> Score:
    """The score, or a masked one when its value is outside the part's range."""
    low, high = (-1.0, 0.0) if part.penalty else (-1.0 if is_file(part.name) else 0.0, 1.0)
    if not low <= score.value <= high:  # NaN too
        return Score(0.0, masked=f"got {score.value}, expected a value in [{low:g}, {high:g}]")
    return score
