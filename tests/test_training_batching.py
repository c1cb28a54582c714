"""Rows and micro-batches by hand: what a row costs, where the budget cuts, and which batch a row goes to."""

from __future__ import annotations

import dataclasses

import pytest

from saccade.training.batching import PackPlan, micro_batches, repeated_cost, rows, shared_cost


def of_costs(*costs: int) -> list[PackPlan]:
    return [PackPlan(i, (0,), cost) for i, cost in enumerate(costs)]


def members(batches: list[list[PackPlan]]) -> list[list[int]]:
    return [[row.prompt for row in batch] for batch in batches]


def test_a_shared_row_costs_its_prompt_once_and_a_repeated_one_is_padded_to_the_longest_reply() -> None:
    assert shared_cost(10, [3, 4, 5]) == 22
    assert repeated_cost(10, [3, 4, 5]) == 3 * (10 + 5)
    assert (shared_cost(10, []), repeated_cost(10, [])) == (10, 0)


def test_a_row_that_costs_exactly_the_budget_stays_whole_and_one_token_less_cuts_it() -> None:
    replies = [(4, 5), (7, 5)]
    assert rows(2, 10, replies, budget=20) == [PackPlan(2, (4, 7), 20)]
    assert rows(2, 10, replies, budget=19) == [PackPlan(2, (4,), 15), PackPlan(2, (7,), 15)]


def test_the_way_of_counting_decides_where_a_group_is_cut() -> None:
    replies = [(0, 2), (1, 6)]
    assert rows(0, 10, replies, 32, repeated_cost) == [PackPlan(0, (0, 1), 32)]
    assert rows(0, 10, replies, 31, repeated_cost) == [PackPlan(0, (0,), 12), PackPlan(0, (1,), 16)]


def test_a_reply_too_long_by_itself_has_its_own_row_and_no_reply_makes_no_row() -> None:
    assert rows(0, 10, [(0, 1), (1, 99), (2, 1)], budget=20) == [
        PackPlan(0, (0,), 11),
        PackPlan(0, (1,), 109),
        PackPlan(0, (2,), 11),
    ]
    assert rows(0, 10, [], budget=20) == []


def test_rows_that_fill_the_budget_exactly_share_a_batch_and_one_token_less_parts_them() -> None:
    assert members(micro_batches(of_costs(6, 4), budget=10)) == [[0, 1]]
    assert members(micro_batches(of_costs(6, 4), budget=9)) == [[0], [1]]
    assert micro_batches([], budget=9) == []


def test_where_balance_would_break_the_budget_the_batches_are_those_of_first_fit() -> None:
    # by weight: 3 2 2 and 3 2, a load of 7; first fit, longest first: 3 3 and 2 2 2
    assert members(micro_batches(of_costs(3, 3, 2, 2, 2), budget=6)) == [[0, 1], [2, 3, 4]]
    assert members(micro_batches(of_costs(3, 3, 2, 2, 2), budget=7)) == [[0, 2, 4], [1, 3]]


def test_a_row_beyond_the_budget_is_alone_and_the_others_are_still_balanced() -> None:
    # first fit would give 6 5 4 and 3 2; the lighter of two batches takes each row: 6 3 2 and 5 4
    assert members(micro_batches(of_costs(50, 6, 5, 4, 3, 2), budget=15)) == [[0], [1, 4, 5], [2, 3]]


@pytest.mark.parametrize("turn", range(5))
def test_rows_of_equal_cost_are_dealt_out_in_their_order_whatever_order_they_came_in(turn: int) -> None:
    some = [
        PackPlan(0, (0,), 5),
        PackPlan(0, (1,), 5),
        PackPlan(1, (0,), 5),
        PackPlan(1, (1,), 5),
        PackPlan(2, (0,), 5),
    ]
    expected = [[some[0], some[3]], [some[1], some[4]], [some[2]]]
    assert micro_batches(some[turn:] + some[:turn], budget=10) == expected


def test_a_row_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PackPlan(0, (0,), 5).cost = 6
