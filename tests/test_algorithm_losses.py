"""Advantages and losses: hand-computed literals, a float64 reference written from the papers, and the batch laws."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from presets import PRESETS

from saccade.algorithm import (
    AdvantageConfig,
    Denominators,
    GroupRewards,
    LossConfig,
    LossInputs,
    build_advantages,
    build_loss,
)
from saccade.algorithm.advantages import advantages
from saccade.algorithm.aggregate import AGGREGATES
from saccade.algorithm.config import Cispo, Clipped, Reinforce, SurrogateConfig
from saccade.algorithm.kl import DIVERGENCES, k2, k3
from saccade.algorithm.ratio import RATIOS
from saccade.algorithm.surrogate import cispo, clipped

LENGTHS = [3, 1, 5, 2]
INDEX_R = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
ADVANTAGES_B = torch.tensor([1.5, -0.5, -1.0, 0.75], dtype=torch.float64)
SURROGATES: list[SurrogateConfig] = [Clipped(), Cispo(high=0.2), Reinforce()]


def tokens(seed: int, scale: float = 0.4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -1.0 + scale * torch.randn(sum(LENGTHS), generator=generator, dtype=torch.float64)


def inputs(logprobs_R: torch.Tensor, with_reference: bool = True) -> LossInputs:
    return LossInputs(logprobs_R, tokens(1), ADVANTAGES_B[INDEX_R], INDEX_R, 4, tokens(2) if with_reference else None)


def on(logprobs_R: torch.Tensor, advantages_R: torch.Tensor) -> LossInputs:
    """Tokens of one reply with these log-probs and advantages."""
    return LossInputs(logprobs_R, logprobs_R, advantages_R, torch.zeros(len(logprobs_R), dtype=torch.long), 1)


WHOLE = Denominators(tokens=sum(LENGTHS), sequences=4, max_length=8)


# ------------------------------------------------------------------------------------------------------- advantages


def test_advantages_equal_literals_computed_by_hand() -> None:
    # rewards 1 0 0 0: mean 1/4, unbiased variance (9/16 + 3/16) / 3 = 1/4, so std 1/2
    got = advantages(torch.tensor([1.0, 0.0, 0.0, 0.0]), eps=0.0)
    assert got.tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5])
    assert advantages(torch.tensor([1.0, 0.0, 0.0, 0.0]), std=False).tolist() == [0.75, -0.25, -0.25, -0.25]
    biased = advantages(torch.tensor([1.0, 0.0]), eps=0.5, unbiased=False)  # std 1/2, so 0.5 / (0.5 + 0.5)
    assert biased.tolist() == pytest.approx([0.5, -0.5])


def test_a_constant_group_has_advantages_of_exactly_zero() -> None:
    third = torch.full((3,), 0.1)  # 0.1 * 3 / 3 need not be 0.1 in floating point
    for std in (True, False):
        assert advantages(third, std=std, eps=1e-12).tolist() == [0.0, 0.0, 0.0]


def test_masked_members_are_excluded_from_mean_and_std() -> None:
    got = advantages(torch.tensor([1.0, 99.0, 0.0]), torch.tensor([True, False, True]), eps=0.0)
    assert got.tolist() == pytest.approx([math.sqrt(0.5), 0.0, -math.sqrt(0.5)])


def test_a_nan_of_a_masked_member_is_not_read() -> None:
    got = advantages(torch.tensor([1.0, math.nan, 0.0]), torch.tensor([True, False, True]), std=False)
    assert got.tolist() == [0.5, 0.0, -0.5]


@pytest.mark.parametrize("mask", [[True, False, False], [False, False, False]])
def test_fewer_than_two_members_have_no_advantage(mask: list[bool]) -> None:
    assert advantages(torch.tensor([1.0, 0.0, 0.5]), torch.tensor(mask)).tolist() == [0.0, 0.0, 0.0]


def test_a_reward_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        advantages(torch.tensor([1.0, math.inf]))
    with pytest.raises(ValueError, match="vectors"):
        advantages(torch.ones(2, 2))


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16))
def test_advantages_sum_to_zero_and_follow_a_permutation(rewards: list[float]) -> None:
    rewards_G = torch.tensor(rewards, dtype=torch.float64)
    got = build_advantages(AdvantageConfig())([GroupRewards(rewards_G)])[0]
    assert isinstance(got, torch.Tensor)
    assert abs(float(got.sum())) < 1e-9 * len(rewards) * max(1.0, float(got.abs().max()))
    torch.testing.assert_close(advantages(rewards_G.flip(0)), got.flip(0))


# ------------------------------------------------------------------------------------------------------ small parts


def test_clip_cuts_only_where_the_policy_has_already_moved_the_right_way() -> None:
    ratio_R = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0], requires_grad=True)
    advantages_R = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    objective_R, cut_R = clipped(ratio_R, on(torch.zeros(5), advantages_R), 0.2, 0.28)
    assert objective_R.tolist() == pytest.approx([1.28, -1.5, 0.5, -0.8, 2.0])
    assert cut_R.tolist() == [True, False, False, True, False]
    objective_R.sum().backward()
    assert ratio_R.grad is not None
    assert ratio_R.grad.tolist() == [0.0, -1.0, 1.0, 0.0, 2.0]


def test_cispo_cuts_the_weight_but_never_the_gradient() -> None:
    logprobs_R = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    objective_R, cut_R = cispo(torch.tensor([3.0, 0.1, 1.0]), on(logprobs_R, torch.tensor([1.0, 1.0, -2.0])), 0.5)
    objective_R.sum().backward()
    assert logprobs_R.grad is not None
    assert logprobs_R.grad.tolist() == pytest.approx([1.5, 0.1, -2.0])
    assert cut_R.tolist() == [True, False, False]


def test_kl_estimators_equal_literals() -> None:
    p, ref = torch.tensor([-1.0]), torch.tensor([-1.0 + math.log(2.0)])
    assert k2(p, ref).item() == pytest.approx(0.5 * math.log(2.0) ** 2)
    assert k3(p, ref).item() == pytest.approx(2.0 - math.log(2.0) - 1.0)


def test_k2_and_k3_agree_to_second_order_and_k3_is_never_negative() -> None:
    gap = torch.linspace(-5, 5, 101, dtype=torch.float64)
    assert bool((k3(gap, torch.zeros_like(gap)) >= 0).all())
    small = torch.tensor([1e-3], dtype=torch.float64)
    assert abs(float(k2(small, 0 * small) - k3(small, 0 * small))) < 1e-9


def test_the_expected_gradient_of_each_estimator_is_the_one_in_its_docstring() -> None:
    # exact expectation over a vocabulary of 4: the gradient of log p - log ref vanishes, k2's is that of the KL
    logits = torch.tensor([0.3, -0.2, 0.9, 0.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([0.1, 0.4, -0.3, 0.2], dtype=torch.float64).log_softmax(0)

    def gradient(of: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(of, logits)[0]

    logp = logits.log_softmax(0)
    p = logp.exp()
    exact = gradient((p * (logp - ref)).sum())
    logp = logits.log_softmax(0)
    assert gradient((p.detach() * (logp - ref)).sum()).abs().max() < 1e-12
    logp = logits.log_softmax(0)
    torch.testing.assert_close(gradient((p.detach() * k2(logp, ref)).sum()), exact)


def test_gspo_ratio_is_the_geometric_mean_of_the_token_ratios() -> None:
    log_ratio_R = torch.log(torch.tensor([2.0, 8.0, 0.5]))
    got = RATIOS["sequence"](log_ratio_R, torch.tensor([0, 0, 1]), 2)
    assert got.tolist() == pytest.approx([4.0, 4.0, 0.5])


def test_aggregations_equal_literals() -> None:
    values_R, index_R = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1])
    over = Denominators(tokens=3, sequences=2, max_length=10)
    got = {name: float(f(values_R, index_R, 2, over)) for name, f in AGGREGATES.items()}
    assert got == pytest.approx({"token_mean": 3.0, "sequence_mean": 3.5, "sequence_sum": 4.5, "constant": 0.45})


# ----------------------------------------------------------------------------------------------------------- losses

VARIANTS = [
    LossConfig(ratio=ratio, surrogate=surrogate, aggregation=aggregation, kl=kl, kl_coef=0.3)
    for ratio, surrogate, aggregation, kl in itertools.product(RATIOS, SURROGATES, AGGREGATES, DIVERGENCES)
    if not (surrogate == Reinforce() and ratio != "token")
]


def reference_loss(config: LossConfig, logprobs_R: torch.Tensor, by_token: torch.Tensor | None = None) -> torch.Tensor:
    """The published formulas, reply by reply and token by token; one advantage for a reply, unless given `by_token`."""
    old_R, ref_R, total = tokens(1), tokens(2), torch.zeros((), dtype=torch.float64)
    start = 0
    for of_the_reply, length in zip(ADVANTAGES_B.tolist(), LENGTHS, strict=True):
        span = range(start, start + length)
        start += length
        mean_log = sum((logprobs_R[t] - old_R[t] for t in span), torch.zeros((), dtype=torch.float64)) / length
        reply = torch.zeros((), dtype=torch.float64)
        for t in span:
            advantage = of_the_reply if by_token is None else float(by_token[t])
            ratio = torch.exp(mean_log if config.ratio == "sequence" else logprobs_R[t] - old_R[t])
            if config.ratio == "sequence_token":
                ratio = torch.exp(mean_log).detach() * torch.exp(logprobs_R[t] - logprobs_R[t].detach())
            if config.surrogate.kind == "clipped":
                bounded = min(max(ratio, ratio.new_tensor(0.8)), ratio.new_tensor(1.2))
                objective = min(ratio * advantage, bounded * advantage)
            elif config.surrogate.kind == "cispo":
                objective = min(float(ratio.detach()), 1.2) * advantage * logprobs_R[t]
            else:
                objective = advantage * logprobs_R[t]
            gap = logprobs_R[t] - ref_R[t]
            kl = {"k2": gap**2 / 2, "k3": torch.exp(-gap) + gap - 1}[config.kl]
            reply = reply - objective + 0.3 * kl
        total = total + (
            reply / length / 4
            if config.aggregation == "sequence_mean"
            else reply / sum(LENGTHS)
            if config.aggregation == "token_mean"
            else reply / (4 * (8 if config.aggregation == "constant" else 1))
        )
    return total


@pytest.mark.parametrize("config", VARIANTS, ids=lambda c: f"{c.ratio}-{c.surrogate.kind}-{c.aggregation}-{c.kl}")
def test_every_composition_equals_its_formula_in_value_and_gradient(config: LossConfig) -> None:
    ours, theirs = tokens(0).requires_grad_(), tokens(0).requires_grad_()
    value = build_loss(config)(inputs(ours), WHOLE).loss
    expected = reference_loss(config, theirs)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s.kind)
def test_credit_may_differ_from_token_to_token(surrogate: SurrogateConfig) -> None:
    config, by_token = LossConfig(surrogate=surrogate, kl_coef=0.3), tokens(5, scale=2.0)
    ours, theirs = tokens(0).requires_grad_(), tokens(0).requires_grad_()
    build_loss(config)(dataclasses.replace(inputs(ours), advantages_R=by_token), WHOLE).loss.backward()
    reference_loss(config, theirs, by_token).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", [*PRESETS.values(), LossConfig()], ids=[*PRESETS, "neutral"])
def test_any_split_into_micro_batches_gives_the_step_of_the_whole(config: LossConfig) -> None:
    loss = build_loss(config)
    whole = tokens(0).requires_grad_()
    loss(inputs(whole), WHOLE).loss.backward()
    for cuts in ([1], [2], [1, 2, 3], [3]):
        parts = tokens(0).requires_grad_()
        for low, high in itertools.pairwise([0, *cuts, 4]):
            here = (low <= INDEX_R) & (high > INDEX_R)
            index_R, advantages_R = INDEX_R[here] - low, ADVANTAGES_B[INDEX_R[here]]
            given_ = LossInputs(parts[here], tokens(1)[here], advantages_R, index_R, high - low, tokens(2)[here])
            loss(given_, WHOLE).loss.backward()
        torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s.kind)
def test_on_policy_every_surrogate_has_the_gradient_of_reinforce(surrogate: SurrogateConfig) -> None:
    logprobs_R = tokens(0).requires_grad_()
    given_ = LossInputs(logprobs_R, logprobs_R.detach(), ADVANTAGES_B[INDEX_R], INDEX_R, 4)
    build_loss(LossConfig(surrogate=surrogate))(given_, WHOLE).loss.backward()
    torch.testing.assert_close(logprobs_R.grad, -ADVANTAGES_B[INDEX_R] / sum(LENGTHS))


def test_metrics_are_sums_over_tokens() -> None:
    logprobs_R = tokens(1).requires_grad_()
    metrics = build_loss(LossConfig(kl_coef=0.1))(inputs(logprobs_R), WHOLE).metrics
    assert float(metrics["policy/ratio_mean"]) == pytest.approx(sum(LENGTHS))
    assert float(metrics["policy/clip_fraction"]) == 0
    assert float(metrics["policy/kl"]) == pytest.approx(float(k3(tokens(1), tokens(2)).sum()))


def test_a_token_far_off_policy_stays_finite() -> None:
    logprobs_R = torch.tensor([-200.0, -1.0], requires_grad=True)
    old_R, index_R = torch.tensor([-1.0, -200.0]), torch.zeros(2, dtype=torch.long)
    given_ = LossInputs(logprobs_R, old_R, torch.tensor([-1.0, -1.0]), index_R, 1)
    build_loss(LossConfig())(given_, Denominators(2, 1)).loss.backward()
    assert logprobs_R.grad is not None and bool(torch.isfinite(logprobs_R.grad).all())


def test_the_presets_state_their_papers() -> None:
    ours = PRESETS["vlm_r1"]
    assert (ours.kl_coef, ours.surrogate, ours.aggregation) == (0.04, Clipped(low=0.2, high=0.2), "sequence_mean")
    assert ours.advantage == AdvantageConfig(std=True, eps=1e-4, unbiased=True)
    assert (PRESETS["vision_r1"].kl_coef, PRESETS["vision_r1"].surrogate) == (0.01, Clipped(low=0.2, high=0.2))


def test_options_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"surrogate\.cispo\.low\n.*not permitted"):
        LossConfig.model_validate({"surrogate": {"kind": "cispo", "low": 0.1, "high": 0.2}})
    with pytest.raises(ValueError, match="kl_coef is 0"):
        LossConfig(kl="k2")
    with pytest.raises(ValueError, match="'k1', whose expected gradient is 0"):
        LossConfig.model_validate({"kl": "k1", "kl_coef": 0.1})
    with pytest.raises(ValueError, match="should be 'token_mean', 'sequence_mean', 'sequence_sum' or 'constant'"):
        LossConfig.model_validate({"aggregation": "mean"})
    with pytest.raises(ValueError, match="no log-probs of a reference"):
        build_loss(LossConfig(kl_coef=0.1))(inputs(tokens(0), with_reference=False), WHOLE)
    with pytest.raises(ValueError, match="max_new_tokens"):
        build_loss(LossConfig(aggregation="constant"))(inputs(tokens(0)), Denominators(1, 1))
    with pytest.raises(ValueError, match="at least one token"):
        Denominators(0, 0)
