"""Stages: which step belongs to which stage, when a stage ends, and what cannot be meant."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.rollout.stages import Schedule, ScheduleState, Stage, Until


def stage(name: str, **until: float | int) -> Stage:
    return Stage(name=name, max_new_tokens=32, group_size=4, until=Until(**until) if until else None)


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
def test_a_state_that_went_through_json_continues_as_before(shares: list[float], at: int) -> None:
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
        ((stage("a", step=400),), 600, "remove one of them"),
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
        Until(**rule)


@pytest.mark.parametrize(
    ("shares", "states"),
    [
        (
            [0.9, 0.1, 0.0, 0.5],  # over two steps: 0.5 is not below 0.5; 0.05 is
            [
                ScheduleState(1, 0, 0, (0.9,)),
                ScheduleState(2, 0, 0, (0.9, 0.1)),
                ScheduleState(3, 1, 3, ()),
                ScheduleState(4, 1, 3, (), finished=True),
            ],
        ),
        (
            [0.5, 0.5, 0.5, 0.0],
            [
                ScheduleState(1, 0, 0, (0.5,)),
                ScheduleState(2, 0, 0, (0.5, 0.5)),
                ScheduleState(3, 1, 3, ()),
                ScheduleState(4, 1, 3, (), finished=True),
            ],
        ),
        (
            [0.0, 0.0, 0.0, 0.0],
            [
                ScheduleState(1, 0, 0, (0.0,)),
                ScheduleState(2, 1, 2, ()),
                ScheduleState(3, 1, 2, ()),
                ScheduleState(4, 1, 2, (), finished=True),
            ],
        ),
    ],
)
def test_a_state_holds_its_step_its_stage_and_only_the_shares_that_its_rule_looks_at(
    shares: list[float], states: list[ScheduleState]
) -> None:
    schedule = Schedule((stage("a", truncation_below=0.5, over=2, at_most=3), stage("b", step=4)))
    state = ScheduleState()
    assert state == ScheduleState(0, 0, 0, (), False)
    for share, expected in zip(shares, states, strict=True):
        state = schedule.advance(state, share)
        assert state == expected


def test_a_last_stage_keeps_its_shares_when_it_ends_the_run() -> None:
    schedule = Schedule((stage("a", truncation_below=0.5, over=1, at_most=2),))
    assert schedule.advance(ScheduleState(), 0.25) == ScheduleState(1, 0, 0, (0.25,), finished=True)


def test_the_longest_run_is_counted_by_what_each_stage_may_last() -> None:
    adaptive = stage("a", truncation_below=0.5, over=2, at_most=3)
    assert Schedule((adaptive, stage("b", truncation_below=0.5, over=2, at_most=4))).max_steps == 7
    assert Schedule((adaptive, stage("b", step=4))).max_steps == 4
    assert Schedule((adaptive, stage("b")), num_steps=9).max_steps == 9
    assert Schedule((stage("a", step=4),), num_steps=4).max_steps == 4, "a run may end where its last stage does"
    with pytest.raises(ValueError, match="stage 2 ends at step 3 but stage 1 may last until step 3"):
        Schedule((adaptive, stage("b", step=3)))


def test_a_stage_and_a_schedule_cannot_be_changed() -> None:
    for part in (ScheduleState(), Schedule((stage("a", step=4),))):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, dataclasses.fields(part)[0].name, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"group_size": 1},
        {"sampling": {"temperature": 0.0}},
        {"sampling": {"top_p": 0.0}},
        {"sampling": {"top_p": 1.01}},
        {"sampling": {"top_k": -1}},
        {"sampling": {"max_new_tokens": 4}},
        {"sampling": {"temprature": 0.5}},
        {"prompts_per_step": 0},
        {"until": {"step": 0}},
        {"until": {"truncation_below": 0.0, "over": 1, "at_most": 1}},
        {"until": {"truncation_below": 1.01, "over": 1, "at_most": 1}},
        {"until": {"truncation_below": 0.5, "over": 0, "at_most": 1}},
        {"until": {"truncation_below": 0.5, "over": 1, "at_most": 0}},
        {"until": {"truncation_below": 0.5, "over": 1}},
        {"until": {"truncation_below": 0.5, "at_most": 1}},
        {"until": {"over": 1, "at_most": 1}},
    ],
)
def test_an_option_beyond_its_range_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"Input should|expected either|expected some of"):
        Stage.model_validate({"max_new_tokens": 8, "group_size": 2, **options})


def test_options_at_the_ends_of_their_ranges_are_taken() -> None:
    tight = {"truncation_below": 1.0, "over": 1, "at_most": 1}
    smallest = {"max_new_tokens": 1, "group_size": 2, "sampling": {"temperature": 1e-3, "top_p": 1e-3, "top_k": 0}}
    assert Stage.model_validate({**smallest, "prompts_per_step": 1, "until": tight}).prompts_per_step == 1
    wide = {"max_new_tokens": 8, "group_size": 2, "sampling": {"top_p": 1.0}, "until": {"step": 1}}
    assert Stage.model_validate(wide).until == Until(step=1)
    assert Until(truncation_below=1e-3, over=3, at_most=3).at_most == 3


FALLING = {"truncation_below": 0.5, "over": 1}


@pytest.mark.parametrize(
    ("stages", "num_steps", "before", "expected"),
    [
        ((stage("one", step=2), stage("new", step=3), stage("two")), 5, ScheduleState(4, 1, 2), (2, 4, False)),
        ((stage("one", step=2), stage("new", step=4), stage("two")), 5, ScheduleState(4, 1, 2), (2, 4, False)),
        ((stage("one", step=2), stage("new", step=5), stage("two")), 6, ScheduleState(4, 1, 2), (1, 2, False)),
        (
            (stage("one", step=2), stage("new", step=3), stage("two", step=9)),
            None,
            ScheduleState(9, 1, 2),
            (2, 9, True),
        ),
        ((stage("one", step=2), stage("two")), 9, ScheduleState(4, 1, 2), (1, 2, False)),
        ((stage("one", step=2), stage("two")), 9, ScheduleState(4, 1, 2, finished=True), (1, 2, False)),
        ((stage("one", step=2), stage("two")), 4, ScheduleState(4, 1, 2), (1, 2, True)),
        ((stage("one", step=4), stage("two")), 9, ScheduleState(3, 1, 2), (0, 0, False)),
        ((stage("one", step=2), stage("two", step=5), stage("three")), 9, ScheduleState(3, 2, 2), (1, 2, False)),
        ((stage("one"),), 9, ScheduleState(4, 1, 2), (0, 0, False)),
        ((stage("one"),), 3, ScheduleState(4, 1, 2), (0, 0, True)),
        ((stage("one", **FALLING, at_most=3), stage("two")), 9, ScheduleState(2, 0, 0, (0.7,)), (0, 0, False)),
        ((stage("one", **FALLING, at_most=3), stage("two")), 9, ScheduleState(2, 0, 0, (0.7,), True), (0, 0, False)),
        ((stage("one", **FALLING, at_most=2), stage("two")), 9, ScheduleState(2, 0, 0, (0.7,)), (1, 2, False)),
        ((stage("one", **FALLING, at_most=4),), None, ScheduleState(2, 0, 0, (0.7,), True), (0, 0, False)),
        ((stage("one", **FALLING, at_most=4),), None, ScheduleState(2, 0, 0, (0.3,), True), (0, 0, True)),
        ((stage("one"),), 3, ScheduleState(), (0, 0, False)),
    ],
)
def test_a_checkpoint_continues_in_the_stage_that_its_step_is_in(stages, num_steps, before, expected):
    """Stages may be inserted, moved or removed before a resume."""
    found = Schedule(stages, num_steps).reopened(before)
    assert (found.stage, found.stage_start, found.finished) == expected and found.step == before.step


@given(st.lists(st.sampled_from([0.0, 0.3, 0.7, 1.0]), max_size=12))
def test_a_checkpoint_under_the_same_schedule_continues_as_it_was(shares: list[float]) -> None:
    schedules = (
        Schedule((stage("a", step=3), stage("b", step=5), stage("c")), num_steps=9),
        Schedule((stage("a", **FALLING, at_most=4), stage("b", step=9))),
        Schedule((stage("a", step=2), stage("b", truncation_below=0.5, over=2, at_most=4))),
    )
    for schedule in schedules:
        state = ScheduleState()
        for share in shares:
            assert schedule.reopened(state) == state
            if state.finished:
                break
            state = schedule.advance(state, share)
