"""Choosing tokens: cuts leave exactly the tokens they should, draws follow the weights, log-probs are uncut."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from saccade.rollout.config import Sampling
from saccade.rollout.sampling import BLOCK, TokenSampler, cut, draw

CPU = torch.device("cpu")


def support(weights_V, **options) -> list[int]:
    return cut(torch.tensor([weights_V]), Sampling(**options))[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.375}, [3]),
        ({"top_p": 0.376}, [1, 3]),
        ({"top_p": 1e-9}, [3]),
        ({"min_p": 0.5}, [0, 1, 3]),
        ({"min_p": 1.0}, [3]),
        ({"top_k": 3, "top_p": 0.78}, [1, 3]),  # 0.6875 of the 0.875 that top-k leaves is 0.786
        ({"top_k": 3, "top_p": 0.79}, [0, 1, 3]),
        ({"top_p": 0.7, "min_p": 0.9}, [3]),
    ],
)
def test_each_cut_leaves_exactly_its_tokens(options, expected):
    assert support([0.1875, 0.3125, 0.0625, 0.375, 0.0625], **options) == expected


def test_a_tie_at_the_edge_of_top_k_keeps_exactly_k():
    assert len(support([0.25, 0.25, 0.25, 0.25], top_k=3)) == 3


def test_a_draw_is_the_first_token_at_which_the_running_sum_passes_the_point():
    V = 3 * BLOCK + 17
    weights_1V = torch.rand(1, V, generator=torch.Generator().manual_seed(0)) ** 4
    weights_1V[0, 200:600] = 0
    cumulative_V = weights_1V[0].double().cumsum(0)
    uniform_N = torch.linspace(0, 1, 801, dtype=torch.float64)[:-1]
    expected_N = torch.searchsorted(cumulative_V, uniform_N * cumulative_V[-1], right=True)
    assert draw(weights_1V.expand(len(uniform_N), -1), uniform_N).tolist() == expected_N.tolist()


def test_a_token_without_weight_is_never_drawn():
    weights_1V = torch.zeros(1, 5 * BLOCK)
    weights_1V[0, [3, BLOCK, 4 * BLOCK + 1]] = torch.tensor([1.0, 2.0, 1.0])
    uniform_N = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    drawn = draw(weights_1V.expand(6, -1), uniform_N).tolist()
    assert drawn == [3, 3, BLOCK, BLOCK, 4 * BLOCK + 1, 4 * BLOCK + 1]


def test_log_probs_are_those_of_the_whole_scaled_distribution_whatever_is_cut_or_banned():
    logits_NV = torch.randn(6, 700, generator=torch.Generator().manual_seed(1))
    uniform_N = torch.rand(6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sampling = Sampling(temperature=0.7, top_k=5, top_p=0.9, min_p=0.01)
    banned = logits_NV.argmax(-1).tolist()
    tokens, logprobs = TokenSampler(sampling, banned, [1], CPU)(logits_NV, uniform_N, [])
    whole_NV = torch.log_softmax(logits_NV.double() / 0.7, -1)
    assert logprobs == pytest.approx([float(whole_NV[i, token]) for i, token in enumerate(tokens)], abs=1e-5)
    assert not set(tokens) & set(banned)


def test_rows_worked_on_in_parts_draw_the_same(monkeypatch):
    logits_NV = torch.randn(7, 300, generator=torch.Generator().manual_seed(1))
    uniform_N = torch.rand(7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sampler = TokenSampler(Sampling(top_p=0.9), [], [0], CPU)
    whole = sampler(logits_NV, uniform_N, [2])
    monkeypatch.setattr("saccade.rollout.sampling.CHUNK", 600)
    assert sampler(logits_NV, uniform_N, [2]) == whole


def test_stop_tokens_are_kept_from_early_rows_alone():
    logits_NV = torch.zeros(3, 4)
    logits_NV[:, 2] = 50.0
    sampler = TokenSampler(Sampling(), [], [2], CPU)
    tokens, logprobs = sampler(logits_NV, torch.full((3,), 0.5, dtype=torch.float64), [1])
    assert tokens == [2, 1, 2]
    assert logprobs[1] == pytest.approx(-50, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"repetition_stop": 1}, "repetition_stop is 1"),
        ({"stop_strings": ("a", "")}, "empty text"),
        ({"max_new_tokens": 4, "min_new_tokens": 5}, "min_new_tokens is 5"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, word):
    with pytest.raises(ValidationError, match=word):
        Sampling(**options)


def test_a_server_is_asked_for_what_is_set_and_for_nothing_else():
    assert Sampling(max_new_tokens=9).request() == {"max_tokens": 9, "temperature": 1.0, "top_p": 1.0}
    assert Sampling(greedy=True, max_new_tokens=9).request() == {"max_tokens": 9, "temperature": 0.0}
    given = Sampling(temperature=0.5, top_k=3, min_p=0.1, min_new_tokens=2, stop_strings=("x",)).request()
    more = {"top_k": 3, "min_p": 0.1, "min_tokens": 2, "stop": ("x",)}
    assert given == {"max_tokens": 256, "temperature": 0.5, "top_p": 1.0} | more


def test_greedy_takes_the_likeliest_token_that_may_be_drawn():
    logits_NV = torch.tensor([[0.0, 2.0, 1.0, -1.0], [9.0, 3.0, 4.0, -1.0], [1.0, 0.0, 2.0, 8.0]])
    zeros_N = torch.zeros(3, dtype=torch.float64)
    assert TokenSampler(Sampling(greedy=True), [0], [3], CPU)(logits_NV, zeros_N, [2])[0] == [1, 2, 2]


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.bfloat16, 1e-6), (torch.float32, 1e-6), (torch.float64, 1e-14)]
)
def test_log_probs_are_at_least_of_single_precision_whatever_the_logits_are(dtype, precision):
    logits_NV = torch.randn(2, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    tokens, logprobs = TokenSampler(Sampling(), [], [], CPU)(
        logits_NV, torch.tensor([0.3, 0.8], dtype=torch.float64), []
    )
    exact_NV = torch.log_softmax(logits_NV.double(), -1)
    assert logprobs == pytest.approx([float(exact_NV[i, token]) for i, token in enumerate(tokens)], abs=precision)


def test_a_row_in_which_no_token_has_weight_gives_some_token():
    assert draw(torch.zeros(2, BLOCK + 3), torch.tensor([0.0, 0.9], dtype=torch.float64)).tolist() == [0, 0]


def test_a_log_prob_of_logits_that_are_not_finite_is_not_finite_and_nothing_is_raised():
    logits_NV = torch.tensor([[0.0, 1.0, 2.0], [torch.nan, 1.0, 2.0]])
    tokens, logprobs = TokenSampler(Sampling(), [], [], CPU)(logits_NV, torch.full((2,), 0.5, dtype=torch.float64), [])
    assert all(0 <= token < 3 for token in tokens)
    assert [value == value for value in logprobs] == [True, False]


def test_all_rows_at_once_and_a_vocabulary_larger_than_a_part_draw_the_same(monkeypatch):
    logits_NV = torch.randn(3, 300, generator=torch.Generator().manual_seed(1))
    uniform_N = torch.rand(3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sampler = TokenSampler(Sampling(), [], [0], CPU)
    whole = sampler(logits_NV, uniform_N, [])
    monkeypatch.setattr("saccade.rollout.sampling.CHUNK", 299)
    assert sampler(logits_NV, uniform_N, []) == whole


def test_the_largest_uniform_number_draws_the_last_token_with_weight():
    # (1 - 2**-53) x 3 rounds to 3, the whole sum, beyond which there is no token
    weights_1V = torch.zeros(1, 2 * BLOCK)
    weights_1V[0, :2] = torch.tensor([2.0, 1.0])
    assert draw(weights_1V, torch.tensor([1 - 2**-53], dtype=torch.float64)).tolist() == [1]
