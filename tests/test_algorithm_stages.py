"""Stages: which step belongs to which stage, when a stage ends, and what cannot be meant."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.algorithm import Schedule, ScheduleState, Stage, Until


def stage(name: str, **until: float | int) -> Stage:
    return Stage(name=name, max_new_tokens=32, group_size=4, until=Until(**until) if until else None)  # type: ignore[arg-type]


def run(schedule: Schedule, shares: list[float]) -> list[str]:
    """The stage of every step that takes place while the shares last."""
    state, seen = ScheduleState(), []
    for share in shares:
        if state.finished:
            break
        seen.append(schedule.stage(state).name)
        state = schedule.advance(state, share)
    return seen


def test_a_stage_ends_at_its_step_of_the_run() -> None:
    schedule = Schedule((stage("a", step=2), stage("b", step=5)))
    assert run(schedule, [1.0] * 9) == ["a", "a", "b", "b", "b"]
    assert schedule.max_steps == 5


def test_a_stage_ends_when_the_average_truncation_falls_below_its_bound() -> None:
    schedule = Schedule((stage("a", truncation_below=0.2, over=2, at_most=9), stage("b")), num_steps=12)
    # averages over two steps: 0.5, 0.25, 0.15 -> the fourth step is the last of stage a
    assert run(schedule, [0.8, 0.2, 0.3, 0.0, 0.9, 0.9])[:6] == ["a", "a", "a", "a", "b", "b"]


def test_a_stage_ends_at_most_after_its_own_steps_and_forgets_the_shares_of_the_one_before() -> None:
    schedule = Schedule((stage("a", step=3), stage("b", truncation_below=0.5, over=2, at_most=3), stage("c", step=9)))
    assert run(schedule, [0.0, 0.0, 0.0, 0.9, 0.9, 0.9, 0.9]) == ["a", "a", "a", "b", "b", "b", "c"]
    assert run(schedule, [0.0] * 6) == ["a", "a", "a", "b", "b", "c"]


def test_a_last_stage_with_a_truncation_rule_can_end_the_run_early() -> None:
    schedule = Schedule((stage("a", truncation_below=0.5, over=1, at_most=10),))
    assert run(schedule, [0.9, 0.1, 0.1]) == ["a", "a"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=25), st.integers(0, 24))
def test_a_state_that_went_through_json_goes_on_as_before(shares: list[float], at: int) -> None:
    schedule = Schedule((stage("a", truncation_below=0.4, over=3, at_most=8), stage("b")), num_steps=20)
    state = ScheduleState()
    for i, share in enumerate(shares):
        if state.finished:
            break
        if i == at:
            assert ScheduleState.from_dict(json.loads(json.dumps(state.to_dict()))) == state
        state = schedule.advance(state, share)
    assert state.step <= schedule.max_steps


@pytest.mark.parametrize(
    ("stages", "num_steps", "message"),
    [
        ((), None, "empty list"),
        ((stage("a"),), None, "num_steps is not set"),
        ((stage("a"), stage("b", step=4)), None, "stage 1 has no 'until'"),
        ((stage("a", step=4), stage("b", step=4)), None, "stage 2 ends at step 4 but stage 1 may last until step 4"),
        ((stage("a", step=4), stage("b", step=800)), 600, "stage 2 ends at step 800 but num_steps is 600"),
        ((stage("a", step=400),), 600, "leave one out"),
        ((stage("a", step=4), stage("a", step=8)), None, "different name"),
        ((stage("a", truncation_below=0.1, over=2, at_most=9), stage("b", step=7)), None, "may last until step 9"),
    ],
)
def test_stages_that_cannot_follow_each_other_are_refused(
    stages: tuple[Stage, ...], num_steps: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(stages, num_steps)


@pytest.mark.parametrize(
    "rule", [{}, {"step": 3, "over": 2}, {"truncation_below": 0.1}, {"truncation_below": 0.1, "over": 5, "at_most": 3}]
)
def test_a_rule_that_is_incomplete_or_double_is_refused(rule: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Until(**rule)  # type: ignore[arg-type]
