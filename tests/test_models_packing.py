"""A packed row to the last number: where every token is, which position it has, and what predicts it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from saccade.models.adapter import EncodedPrompt
from saccade.models.packing import Branch, Layout, Packed, pack


def prompt(name: str, ids: list[int], positions: list[list[int]], next_position: int) -> EncodedPrompt:
    return EncodedPrompt(torch.tensor(ids), torch.tensor(positions), next_position, {}, (), (), name)


FIRST = prompt("first", [1, 2, 3], [[0, 1, 1], [0, 1, 2], [0, 2, 1]], next_position=9)
SECOND = prompt("second", [4, 5], [[0, 1], [0, 1], [0, 1]], next_position=20)
GROUPS = [
    (FIRST, (Branch([10, 11, 12]), Branch([13, 14], ((1, 2),)))),
    (SECOND, (Branch([15]), Branch([16, 17, 18, 19], ((2, 4),)))),
]


@pytest.fixture
def packed() -> Packed:
    return pack(GROUPS)


def test_all_prompts_come_before_all_branches(packed: Packed) -> None:
    assert packed.ids_T.tolist() == [1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]


def test_every_branch_continues_the_positions_of_its_own_prompt(packed: Packed) -> None:
    replies = [9, 10, 11, 9, 10, 20, 20, 21, 22, 23]
    assert packed.positions_3T.tolist() == [
        [0, 1, 1, 0, 1, *replies],
        [0, 1, 2, 0, 1, *replies],
        [0, 2, 1, 0, 1, *replies],
    ]


def test_a_loss_token_is_predicted_by_the_token_before_it_and_the_first_by_the_end_of_its_prompt(
    packed: Packed,
) -> None:
    assert packed.targets_R.tolist() == [10, 11, 12, 14, 15, 18, 19]
    assert packed.source_R.tolist() == [2, 5, 6, 8, 4, 12, 13]


def test_branches_are_counted_over_the_whole_batch(packed: Packed) -> None:
    assert packed.branch_index_R.tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert (packed.num_tokens, packed.num_branches) == (7, 4)


def test_each_group_alone_is_a_batch_with_the_same_loss_tokens(packed: Packed) -> None:
    first, second = packed.groups()
    assert first.ids_T.tolist() == [1, 2, 3, 10, 11, 12, 13, 14]
    assert first.source_R.tolist() == [2, 3, 4, 6]
    assert first.branch_index_R.tolist() == [0, 0, 0, 1]
    assert second.ids_T.tolist() == [4, 5, 15, 16, 17, 18, 19]
    assert second.source_R.tolist() == [1, 4, 5]
    assert second.branch_index_R.tolist() == [0, 1, 1]
    assert [*first.targets_R.tolist(), *second.targets_R.tolist()] == packed.targets_R.tolist()


def test_a_layout_counts_the_tokens_of_the_row_and_of_the_plain_batch(packed: Packed) -> None:
    layout = packed.layout
    assert layout == Layout((3, 2), ((3, 2), (1, 4)))
    assert (layout.prompt_tokens, layout.length) == (5, 15)
    assert layout.plain_tokens == (3 + 3) + (3 + 2) + (2 + 1) + (2 + 4)


def test_spans_name_the_owner_of_every_stretch_in_row_order(packed: Packed) -> None:
    spans = [(0, 0, 0, 3), (1, 0, 3, 5), (0, 1, 5, 8), (0, 2, 8, 10), (1, 1, 10, 11), (1, 2, 11, 15)]
    assert list(packed.layout.spans()) == spans


def test_segments_name_the_owner_of_every_token(packed: Packed) -> None:
    group_T, branch_T = packed.layout.segments()
    assert group_T.tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert branch_T.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 1, 2, 2, 2, 2]


BAD_BRANCHES = [
    Branch([]),
    Branch([7, 8], ()),
    Branch([7, 8], ((2, 2),)),
    Branch([7, 8], ((1, 3),)),
    Branch([7, 8], ((-1, 1),)),
    Branch([7, 8, 9], ((1, 2), (0, 1))),
    Branch([7, 8, 9], ((0, 2), (1, 3))),
]


@pytest.mark.parametrize("branch", BAD_BRANCHES)
def test_a_branch_without_a_loss_token_is_refused_by_name(branch: Branch) -> None:
    with pytest.raises(ValueError, match=r"branch 1 of prompt second: .*expected at least one loss token"):
        pack([(SECOND, [Branch([15]), branch])])


def test_the_last_token_alone_may_carry_the_loss() -> None:
    assert pack([(SECOND, [Branch([7, 8], ((1, 2),))])]).source_R.tolist() == [2]


def test_tokens_between_the_spans_carry_no_loss_but_are_seen() -> None:
    packed = pack([(SECOND, [Branch([5, 6, 7, 8], ((0, 1), (3, 4)))])])
    assert packed.targets_R.tolist() == [5, 8]
    assert packed.source_R.tolist() == [1, 4], "each is predicted by the token before it, loss or not"
    assert packed.ids_T.tolist()[2:] == [5, 6, 7, 8]


def test_nothing_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="got no groups"):
        pack([])


def test_a_branch_a_layout_and_a_packed_row_cannot_be_changed(packed: Packed) -> None:
    for part in (Branch([7]), packed.layout, packed):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, dataclasses.fields(part)[0].name, ())


def test_a_packed_row_equals_only_itself(packed: Packed) -> None:
    assert packed == packed and packed != pack(GROUPS), "its tensors have no single answer to =="
