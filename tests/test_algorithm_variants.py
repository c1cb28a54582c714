"""Surrogates, advantages and entropy terms beyond GRPO's, each against its published equation written out reply by
reply in float64, value and gradient."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch

from saccade.algorithm import Denominators, GroupRewards, LossConfig, LossInputs, build_advantages, build_loss
from saccade.algorithm.config import AdvantageConfig as GroupAdvantage
from saccade.algorithm.config import Gdpo, LeaveOneOut, ReinforcePlusPlus
from saccade.algorithm.kl import kl_penalties
from saccade.models.logprobs import Head, token_logprobs

LENGTHS = [3, 1, 5, 2]
INDEX_R = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
ADVANTAGES_B = torch.tensor([1.5, -0.5, -1.0, 0.75], dtype=torch.float64)
WHOLE = Denominators(tokens=sum(LENGTHS), sequences=4, max_length=8)


def tokens(seed: int, scale: float = 0.6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -1.5 + scale * torch.randn(sum(LENGTHS), generator=generator, dtype=torch.float64)


def inputs(logprobs_R: torch.Tensor) -> LossInputs:
    return LossInputs(logprobs_R, tokens(1), ADVANTAGES_B[INDEX_R], INDEX_R, 4, tokens(2))


def replies(logprobs_R: torch.Tensor) -> list[tuple[float, torch.Tensor, torch.Tensor]]:
    """(advantage, log p, log p_old) of each reply."""
    ours, old = logprobs_R.split(LENGTHS), tokens(1).split(LENGTHS)
    return list(zip(ADVANTAGES_B.tolist(), ours, old, strict=True))


def dual_clip(logprobs_R: torch.Tensor) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for A, new, old in replies(logprobs_R):
        for t in range(len(new)):
            ratio = torch.exp(new[t] - old[t])
            value = torch.minimum(ratio * A, torch.clamp(ratio, 0.8, 1.2) * A)
            if A < 0:
                value = torch.maximum(value, torch.tensor(1.5 * A, dtype=torch.float64))
            total = total - value / sum(LENGTHS)
    return total


def sapo(logprobs_R: torch.Tensor) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for A, new, old in replies(logprobs_R):
        tau = 1.0 if A > 0 else 1.05
        gate = 4 / tau / (1 + torch.exp(-tau * (torch.exp(new - old) - 1)))
        total = total - (gate * A).mean() / 4
    return total


def gmpo(logprobs_R: torch.Tensor) -> torch.Tensor:
    """The product form of the paper: sgn(A) times (prod of |min(r A, clip(r) A)|)^(1/T)."""
    total = torch.zeros((), dtype=torch.float64)
    low, high = math.exp(-0.4), math.exp(0.4)
    for A, new, old in replies(logprobs_R):
        ratio = torch.exp(new - old)
        terms = torch.minimum(ratio * A, ratio.clamp(low, high) * A).abs()
        total = total - math.copysign(1, A) * terms.prod() ** (1 / len(terms)) / 4
    return total


def dppo(divergence: str) -> Callable[[torch.Tensor], torch.Tensor]:
    def loss(logprobs_R: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for A, new, old in replies(logprobs_R):
            for t in range(len(new)):
                p, q = math.exp(new[t].item()), math.exp(old[t].item())
                kl = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
                far = (abs(p - q) if divergence == "tv" else kl) > (0.1 if divergence == "tv" else 0.02)
                if not (far and ((A > 0 and p > q) or (A < 0 and p < q))):
                    total = total - torch.exp(new[t] - old[t]) * A / sum(LENGTHS)
        return total

    return loss


VARIANTS = {
    "dual_clip": ({"surrogate": {"kind": "clipped", "dual": 1.5}}, dual_clip),
    "sapo": ({"surrogate": {"kind": "sapo"}, "aggregation": "sequence_mean"}, sapo),
    "gmpo": ({"surrogate": {"kind": "gmpo"}, "aggregation": "sequence_mean"}, gmpo),
    "dppo_tv": ({"surrogate": {"kind": "dppo", "low": 0.1, "high": 0.1}}, dppo("tv")),
    "dppo_kl": ({"surrogate": {"kind": "dppo", "divergence": "kl", "low": 0.02, "high": 0.02}}, dppo("kl")),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_surrogate_equals_its_equation_in_value_and_gradient(name: str) -> None:
    options, reference = VARIANTS[name]
    ours, theirs = tokens(0).requires_grad_(), tokens(0).requires_grad_()
    out = build_loss(LossConfig.model_validate(options))(inputs(ours), WHOLE)
    expected = reference(theirs)
    out.loss.backward()
    expected.backward()
    torch.testing.assert_close(out.loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)
    cut = float(out.metrics["policy/clip_fraction"])
    assert cut == 0 if name == "sapo" else 0 < cut < sum(LENGTHS), "the case has tokens on both sides of the limit"


@pytest.mark.parametrize("name", VARIANTS)
def test_on_policy_the_first_gradient_is_that_of_reinforce(name: str) -> None:
    config = LossConfig.model_validate(VARIANTS[name][0])
    logprobs_R = tokens(0).requires_grad_()
    given = dataclasses.replace(inputs(logprobs_R), old_logprobs_R=logprobs_R.detach())
    build_loss(config)(given, WHOLE).loss.backward()
    per_token = {"token_mean": sum(LENGTHS) * torch.ones(4), "sequence_mean": 4 * torch.tensor(LENGTHS)}
    expected = -ADVANTAGES_B[INDEX_R] / per_token[config.aggregation][INDEX_R]
    torch.testing.assert_close(logprobs_R.grad, expected.double())


def test_the_binary_kl_is_finite_for_a_token_of_probability_one() -> None:
    certain = LossInputs(torch.zeros(2), torch.tensor([0.0, -30.0]), torch.ones(2), torch.zeros(2, dtype=torch.long), 1)
    options = {"surrogate": {"kind": "dppo", "divergence": "kl"}}
    out = build_loss(LossConfig.model_validate(options))(certain, Denominators(2, 1))
    assert bool(torch.isfinite(out.loss))
    assert float(out.metrics["policy/clip_fraction"]) == 1, "one stayed, one came from nowhere"


# -------------------------------------------------------------------------------------------------- entropy


def test_the_entropy_bonus_is_subtracted_and_chosen_tokens_alone_have_a_surrogate() -> None:
    entropy_R, chosen_R = tokens(7).abs(), tokens(8) > -1.5
    config = LossConfig(entropy_coef=0.1, top_entropy=0.5, kl_coef=0.2)
    logprobs_R = tokens(0).requires_grad_()
    given = dataclasses.replace(inputs(logprobs_R), entropy_R=entropy_R, chosen_R=chosen_R)
    got = build_loss(config)(given, WHOLE).loss
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(sum(LENGTHS)):
        ratio, A = torch.exp(logprobs_R[i] - tokens(1)[i]), given.advantages_R[i]
        surrogate = torch.minimum(ratio * A, ratio.clamp(0.8, 1.2) * A) if chosen_R[i] else 0.0
        gap = tokens(2)[i] - logprobs_R[i]
        expected = expected + (-surrogate + 0.2 * (torch.exp(gap) - gap - 1) - 0.1 * entropy_R[i]) / sum(LENGTHS)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="no entropies were given"):
        build_loss(config)(inputs(tokens(0)), WHOLE)


@pytest.mark.parametrize("softcap", [None, 4.0])
def test_the_gradient_of_the_entropy_is_that_of_autograd(softcap: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    weight_VD = torch.randn(11, 5, generator=generator, dtype=torch.float64)
    hidden_RD, targets_R = torch.randn(7, 5, generator=generator, dtype=torch.float64), torch.arange(7)

    def leaves() -> tuple[torch.Tensor, torch.Tensor]:
        return hidden_RD.clone().requires_grad_(), weight_VD.clone().requires_grad_()

    hidden, weight = leaves()
    logprobs_R, entropy_R = token_logprobs(hidden, Head(weight, softcap=softcap), targets_R, 0.7, "gradient")
    assert entropy_R is not None
    (logprobs_R.square().sum() + (entropy_R * torch.arange(7)).sum()).backward()
    plain_hidden, plain_weight = leaves()
    logs_RV = (Head(plain_weight, softcap=softcap).logits(plain_hidden) / 0.7).log_softmax(-1)
    plain = logs_RV.gather(-1, targets_R[:, None])[:, 0].square().sum()
    plain = plain + (-(logs_RV.exp() * logs_RV).sum(-1) * torch.arange(7)).sum()
    plain.backward()
    torch.testing.assert_close(hidden.grad, plain_hidden.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(weight.grad, plain_weight.grad, rtol=1e-10, atol=1e-12)
    assert token_logprobs(*leaves()[:1], Head(weight), targets_R, 1.0, entropy=True)[1].requires_grad is False


# ----------------------------------------------------------------------------------------------- advantages

REWARDS = [[1.0, 0.0, 0.25, 0.0], [0.5, 0.5, 0.5, 0.5], [0.0, 1.0, 1.0, 0.75]]
MASKS = [[True] * 4, [True] * 4, [True, True, False, True]]
LENGTHS_G = [[3, 1, 5, 2], [4, 4, 4, 4], [1, 2, 9, 3]]


def step(**more: list) -> list[GroupRewards]:
    groups = []
    for i in range(3):
        options = {name: values[i] for name, values in more.items()}
        rewards_G = torch.tensor(REWARDS[i], dtype=torch.float64)
        groups.append(GroupRewards(rewards_G, torch.tensor(MASKS[i]), torch.tensor(LENGTHS_G[i]), **options))
    return groups


def flat(found: list) -> list[float]:
    return [value for one in found for value in one.tolist()]


def kept(i: int) -> list[int]:
    return [k for k in range(4) if MASKS[i][k]]


def unbiased_std(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def test_leave_one_out_subtracts_the_mean_of_the_siblings() -> None:
    expected = []
    for i in range(3):
        for k in range(4):
            others = [REWARDS[i][j] for j in kept(i) if j != k]
            expected.append(REWARDS[i][k] - sum(others) / len(others) if MASKS[i][k] else 0.0)
    assert flat(build_advantages(LeaveOneOut())(step())) == pytest.approx(expected)


def test_the_batch_std_is_that_of_all_rewards_that_count() -> None:
    scale = unbiased_std([REWARDS[i][k] for i in range(3) for k in kept(i)]) + 1e-4
    expected = []
    for i in range(3):
        mean = sum(REWARDS[i][k] for k in kept(i)) / len(kept(i))
        expected += [(REWARDS[i][k] - mean) / scale if MASKS[i][k] else 0.0 for k in range(4)]
    assert flat(build_advantages(GroupAdvantage(std="batch"))(step())) == pytest.approx(expected)


@pytest.mark.parametrize("baseline", ["none", "group"])
def test_reinforce_pp_normalizes_over_the_tokens_of_the_step(baseline: str) -> None:
    returns = {}
    for i in range(3):
        mean = sum(REWARDS[i][k] for k in kept(i)) / len(kept(i)) if baseline == "group" else 0.0
        returns |= {(i, k): REWARDS[i][k] - mean for k in kept(i)}
    by_token = [value for (i, k), value in returns.items() for _ in range(LENGTHS_G[i][k])]
    mean, scale = sum(by_token) / len(by_token), unbiased_std(by_token) + 1e-8
    expected = [(returns[i, k] - mean) / scale if (i, k) in returns else 0.0 for i in range(3) for k in range(4)]
    got = build_advantages(ReinforcePlusPlus.model_validate({"baseline": baseline}))(step())
    assert flat(got) == pytest.approx(expected)


def penalties() -> list[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(5)
    return [tuple(torch.rand(n, generator=generator, dtype=torch.float64) for n in one) for one in LENGTHS_G]


def test_reinforce_pp_charges_each_token_the_penalties_from_it_on() -> None:
    taken = penalties()
    returns = {
        (i, k, t): REWARDS[i][k] - float(taken[i][k][t:].sum())
        for i in range(3)
        for k in kept(i)
        for t in range(LENGTHS_G[i][k])
    }
    values = list(returns.values())
    mean, scale = sum(values) / len(values), unbiased_std(values) + 1e-8
    found = build_advantages(ReinforcePlusPlus())(step(penalties=taken))
    for i, group in enumerate(found):
        for k, one_T in enumerate(group):
            expected = [(returns[i, k, t] - mean) / scale if MASKS[i][k] else 0.0 for t in range(LENGTHS_G[i][k])]
            assert one_T.tolist() == pytest.approx(expected)


def test_every_other_advantage_takes_the_penalties_of_a_reply_off_its_reward() -> None:
    taken = penalties()
    net = [
        dataclasses.replace(g, rewards_G=g.rewards_G - torch.stack([one.sum() for one in taken[i]]))
        for i, g in enumerate(step())
    ]
    for config in (GroupAdvantage(), GroupAdvantage(std="batch"), LeaveOneOut(), ReinforcePlusPlus(baseline="group")):
        assert flat(build_advantages(config)(step(penalties=taken))) == pytest.approx(
            flat(build_advantages(config)(net))
        )


def test_gdpo_normalizes_each_reward_and_then_their_weighted_sum() -> None:
    form = [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]]
    parts = [
        {"math": (0.9, torch.tensor(a, dtype=torch.float64)), "format": (0.1, torch.tensor(b, dtype=torch.float64))}
        for a, b in zip(REWARDS, form, strict=True)
    ]
    sums = {}
    for i in range(3):
        for values, weight in ((REWARDS[i], 0.9), (form[i], 0.5)):
            own = [values[k] for k in kept(i)]
            mean, std = sum(own) / len(own), unbiased_std(own)
            for k in kept(i):
                sums[i, k] = sums.get((i, k), 0.0) + weight * (values[k] - mean) / (std + 1e-4)
    mean, scale = sum(sums.values()) / len(sums), unbiased_std(list(sums.values())) + 1e-4
    expected = [(sums[i, k] - mean) / scale if (i, k) in sums else 0.0 for i in range(3) for k in range(4)]
    assert flat(build_advantages(Gdpo(weights={"format": 0.5}))(step(parts=parts))) == pytest.approx(expected)
    with pytest.raises(ValueError, match="no rubric of this step has as a part; there are: format, math"):
        build_advantages(Gdpo(weights={"forms": 0.5}))(step(parts=parts))
    with pytest.raises(ValueError, match="a group has none"):
        build_advantages(Gdpo())(step())


@pytest.mark.parametrize(
    "config", [GroupAdvantage(), GroupAdvantage(std="batch"), LeaveOneOut(), ReinforcePlusPlus(), Gdpo()], ids=repr
)
def test_equal_rewards_in_the_whole_step_are_no_signal(config: object) -> None:
    same_G = torch.full((3,), 0.1, dtype=torch.float64)
    groups = [GroupRewards(same_G, parts={"a": (1.0, same_G)}) for _ in range(2)]
    assert flat(build_advantages(config)(groups)) == [0.0] * 6  # type: ignore[arg-type]  # any of the union


def test_a_kl_in_the_reward_has_the_value_of_its_estimator() -> None:
    p, ref = torch.tensor([-1.0, -2.0, math.nan]), torch.tensor([-1.5, -1.0, -1.0])
    assert kl_penalties("k1", 0.5, p, ref).tolist() == pytest.approx([0.25, -0.5, 0.0])
    assert kl_penalties("k2", 1.0, p, ref).tolist() == pytest.approx([0.125, 0.5, 0.0])
    assert kl_penalties("k3", 1.0, p, ref).tolist() == pytest.approx([math.exp(-0.5) - 0.5, math.e - 2, 0.0])


def test_options_of_the_variants_that_would_do_nothing_are_refused() -> None:
    for options, message in (
        ({"surrogate": {"dual": 1.1}}, r"dual: got 1.1; expected more than 1 \+ high"),
        ({"surrogate": {"kind": "gmpo"}, "ratio": "sequence"}, "surrogate 'gmpo' does not use it"),
        ({"surrogate": {"kind": "dppo"}, "ratio": "sequence_token"}, "surrogate 'dppo' does not use it"),
        ({"kl_in": "reward"}, "kl_coef is 0"),
        ({"reference_refresh": 5}, "kl_coef is 0"),
        ({"top_entropy": 0.0}, "greater than 0"),
    ):
        with pytest.raises(ValueError, match=message):
            LossConfig.model_validate(options)
    assert LossConfig.model_validate({"kl": "k1", "kl_in": "reward", "kl_coef": 0.1}).charges_kl is False
