"""Stages as data: progressive thinking suppression (Vision-R1, arXiv:2503.06749, section 3.3) is a list of them.

A stage caps the reply's length, sets the group size and may override sampling and rubric. `Schedule` maps steps to
stages; a small frozen `ScheduleState` records the run's progress and is saved in the checkpoint.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from saccade.config import Config
from saccade.rollout.config import Sampling

MOST = 1_000_000
"""Prompts of a step, or completions of a prompt."""


class Until(Config):
    """When a stage ends: at a step of the run, or when few replies are still truncated."""

    step: int | None = Field(default=None, ge=1)
    """The last step of the stage, counted over the run from 1."""
    truncation_below: float | None = Field(default=None, gt=0.0, le=1.0)
    """Ends when the truncated share, averaged over the last `over` steps of the stage, is below this."""
    over: int | None = Field(default=None, ge=1)
    """Steps of the average (with truncation_below)."""
    at_most: int | None = Field(default=None, ge=1)
    """Steps of this stage after which it ends anyway (with truncation_below)."""

    @model_validator(mode="after")
    def _one_rule(self) -> Until:
        rule = (self.truncation_below, self.over, self.at_most)
        given = [value is not None for value in rule]
        if any(given) if self.step is not None else not all(given):
            raise ValueError("expected either {step: n} or all three of {truncation_below: x, over: k, at_most: n}")
        if self.over is not None and self.at_most is not None and self.over > self.at_most:
            raise ValueError(f"over: got {self.over}; expected at most {self.at_most}, which is at_most")
        return self


class Stage(Config):
    """One part of an RL run. Options that are not set come from the recipe."""

    moved: ClassVar[dict[str, str]] = {key: f"sampling.{key}" for key in ("temperature", "top_p", "top_k")}

    name: str = "main"
    max_new_tokens: int = Field(ge=1)
    """The cap on a reply; a longer one is truncated."""
    group_size: int = Field(ge=2, le=MOST)
    """Completions per prompt (the papers' G)."""
    sampling: dict[str, Any] = Field(default_factory=dict)
    """Overrides of `rollout.sampling`, such as {temperature: 0.8}."""
    rubric: str | None = None
    """Name of the rubric that scores this stage, such as hard; None: each task's own."""
    truncated: Literal["score_zero", "mask", "as_is"] | None = None
    """Treatment of replies that hit the cap; None: as the rubric defines."""
    prompts_per_step: int | None = Field(default=None, ge=1, le=MOST)
    until: Until | None = None
    """None only on the last stage of a recipe that sets num_steps."""

    @field_validator("sampling")
    @classmethod
    def _overrides_of_sampling(cls, value: dict[str, Any]) -> dict[str, Any]:
        known = [name for name in Sampling.model_fields if name not in ("max_new_tokens", "greedy")]
        for name in value:
            if name not in known:
                raise ValueError(f"got key '{name}', expected some of {', '.join(known)}")
        Sampling.model_validate(value)
        return value

    def sampling_from(self, base: Sampling) -> Sampling:
        """`base` with this stage's overrides and its cap on new tokens."""
        return Sampling.model_validate({**base.model_dump(), **self.sampling, "max_new_tokens": self.max_new_tokens})


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """Progress of a run."""

    step: int = 0
    """Completed optimizer steps."""
    stage: int = 0
    """Index of the stage of the next step."""
    stage_start: int = 0
    """Completed steps when the stage began."""
    truncated: tuple[float, ...] = ()
    """Truncated shares of the stage's last steps, oldest first; only as many as its rule needs."""
    finished: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return asdict(self) | {"truncated": list(self.truncated)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ScheduleState:
        """The inverse of `to_dict`."""
        return cls(**{**data, "truncated": tuple(data["truncated"])})


@dataclass(frozen=True)
class Schedule:
    """The stages of a run in order. ValueError when they do not fit into `num_steps`."""

    stages: tuple[Stage, ...]
    num_steps: int | None = None
    """End of the last stage if that has no `until`."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages: got an empty list; expected at least one stage")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages: got the names {', '.join(names)}; expected a different name for each stage")
        end = 0
        for number in range(1, len(self.stages) + 1):
            end = self._latest_end(number, end)
        if self.num_steps is not None and self.stages[-1].until is not None and end != self.num_steps:
            raise ValueError(f"the last stage ends at step {end} but num_steps is {self.num_steps}; remove one of them")

    def _latest_end(self, number: int, start: int) -> int:
        """The last step that stage `number` (from 1) can reach when its predecessor ends no later than `start`."""
        until = self.stages[number - 1].until
        if until is None and number < len(self.stages):
            raise ValueError(f"stage {number} has no 'until'; only the last stage may end with num_steps")
        if until is None and self.num_steps is None:
            raise ValueError(f"stage {number} has no 'until' and num_steps is not set; set one of them")
        end = (self.num_steps or 0) if until is None else until.step or start + (until.at_most or 0)
        if end <= start:
            raise ValueError(
                f"stage {number} ends at step {end} but stage {number - 1} may last until step {start}; "
                "each stage must end after the one before"
            )
        if self.num_steps is not None and end > self.num_steps:
            raise ValueError(
                f"stage {number} ends at step {end} but num_steps is {self.num_steps}; "
                "stages must end at or before num_steps"
            )
        return end

    @property
    def max_steps(self) -> int:
        """Number of steps of the run if every stage lasts as long as possible."""
        end = 0
        for number in range(1, len(self.stages) + 1):
            end = self._latest_end(number, end)
        return end

    def stage(self, state: ScheduleState) -> Stage:
        """The stage of the next step."""
        return self.stages[state.stage]

    def reopened(self, state: ScheduleState) -> ScheduleState:
        """The state of a checkpoint under this schedule, whose stages may have been changed since: it continues in the
        stage that its step is in, and is finished where that one is over and the last."""
        last = len(self.stages) - 1
        number = min(state.stage, last)
        while number and (self._end(number - 1) or 0) > state.step:
            number -= 1
        if number != state.stage:
            start = self._end(number - 1) if number else 0
            state = ScheduleState(state.step, number, state.stage_start if start is None else start)
        while (over := self._is_over(state)) and state.stage < last:
            state = ScheduleState(state.step, state.stage + 1, stage_start=state.step)
        return replace(state, finished=over)

    def _end(self, index: int) -> int | None:
        """The step after which a stage ends; None where that depends on the replies."""
        until = self.stages[index].until
        return self.num_steps if until is None else until.step

    def _is_over(self, state: ScheduleState) -> bool:
        """Whether the stage of a state, which has had a step of it or of one before, ends there."""
        steps = state.step - state.stage_start
        return state.step > 0 and self._over(self.stages[state.stage], state.step, steps, state.truncated)

    def advance(self, state: ScheduleState, truncated_share: float) -> ScheduleState:
        """The state after one more step, in which `truncated_share` (0..1) of the replies was truncated."""
        stage = self.stages[state.stage]
        over = stage.until.over if stage.until is not None and stage.until.over is not None else 0
        step = state.step + 1
        shares = (*state.truncated, float(truncated_share))[-over:] if over else ()
        if not self._over(stage, step, step - state.stage_start, shares):
            return ScheduleState(step, state.stage, state.stage_start, shares)
        if state.stage == len(self.stages) - 1:
            return ScheduleState(step, state.stage, state.stage_start, shares, finished=True)
        return ScheduleState(step, state.stage + 1, stage_start=step)

    def _over(self, stage: Stage, step: int, steps_in_stage: int, shares: tuple[float, ...]) -> bool:
        until = stage.until
        if until is None:
            return step >= (self.num_steps or 0)
        if until.step is not None:
            return step >= until.step
        assert until.truncation_below is not None and until.over is not None and until.at_most is not None
        enough = len(shares) == until.over and sum(shares) / len(shares) < until.truncation_below
        return enough or steps_in_stage >= until.at_most
