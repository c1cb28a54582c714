"""Edges of the loss: defaults, ranges, the presets in full, and where a clip or a bound begins."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

import pytest
import torch
from presets import PRESETS

from saccade.algorithm import (
    AdvantageConfig,
    Denominators,
    GroupRewards,
    LossConfig,
    LossInputs,
    LossOutput,
    build_advantages,
    build_loss,
    sampler_gap,
)
from saccade.algorithm.advantages import advantages
from saccade.algorithm.aggregate import AGGREGATES
from saccade.algorithm.config import Cispo, Clipped
from saccade.algorithm.kl import PENALTIES
from saccade.algorithm.ratio import RATIOS, branch_lengths, branch_mean
from saccade.algorithm.surrogate import cispo, clipped, reinforce
from saccade.config import load
from saccade.training.config import RLRecipe

NEUTRAL = {
    "ratio": "token",
    "surrogate": {"kind": "clipped", "low": 0.2, "high": 0.2, "dual": None},
    "correction": None,
    "kl": "k3",
    "kl_coef": 0.0,
    "kl_in": "loss",
    "reference_refresh": 0,
    "entropy_coef": 0.0,
    "top_entropy": 1.0,
    "aggregation": "token_mean",
    "advantage": {"kind": "group", "std": True, "eps": 1e-4, "unbiased": True},
}
DIFFERENCES: dict[str, dict[str, Any]] = {
    "grpo": {"kl_coef": 0.04, "aggregation": "sequence_mean"},
    "vlm_r1": {"kl_coef": 0.04, "aggregation": "sequence_mean"},
    "vision_r1": {"kl_coef": 0.01},
    "dapo": {"surrogate": {"kind": "clipped", "low": 0.2, "high": 0.28, "dual": None}},
    "dr_grpo": {"aggregation": "constant", "advantage": {"kind": "group", "std": False, "eps": 1e-4, "unbiased": True}},
    "gspo": {
        "ratio": "sequence",
        "surrogate": {"kind": "clipped", "low": 3e-4, "high": 4e-4, "dual": None},
        "aggregation": "sequence_mean",
    },
    "cispo": {"surrogate": {"kind": "cispo", "high": 4.0}},
    "gspo_token": {
        "ratio": "sequence_token",
        "surrogate": {"kind": "clipped", "low": 3e-4, "high": 4e-4, "dual": None},
        "aggregation": "sequence_mean",
    },
    "sapo": {
        "surrogate": {"kind": "sapo", "tau_positive": 1.0, "tau_negative": 1.05},
        "aggregation": "sequence_mean",
    },
    "gmpo": {"surrogate": {"kind": "gmpo", "low": 0.4, "high": 0.4}, "aggregation": "sequence_mean"},
    "dppo": {"surrogate": {"kind": "dppo", "divergence": "tv", "low": 0.2, "high": 0.2}},
    "rloo": {
        "surrogate": {"kind": "reinforce"},
        "aggregation": "sequence_sum",
        "advantage": {"kind": "leave_one_out"},
    }
    | {"kl": "k1", "kl_in": "reward", "kl_coef": 0.05},
    "reinforce_pp": {"advantage": {"kind": "reinforce_pp", "baseline": "none", "eps": 1e-8}}
    | {"kl": "k1", "kl_in": "reward", "kl_coef": 0.01},
    "reinforce_pp_baseline": {"advantage": {"kind": "reinforce_pp", "baseline": "group", "eps": 1e-8}},
    "gdpo": {"advantage": {"kind": "gdpo", "weights": {}, "eps": 1e-4}},
}


def test_the_neutral_loss_and_every_preset_in_full() -> None:
    assert LossConfig().model_dump() == NEUTRAL
    assert {name: preset.model_dump() for name, preset in PRESETS.items()} == {
        name: NEUTRAL | changes for name, changes in DIFFERENCES.items()
    }


@pytest.mark.parametrize(
    "options",
    [
        {"surrogate": {"kind": "clipped", "low": -0.01}},
        {"surrogate": {"kind": "clipped", "low": 1.01}},
        {"surrogate": {"kind": "clipped", "high": -0.01}},
        {"surrogate": {"kind": "cispo", "high": -0.01}},
        {"kl_coef": -0.01},
        {"advantage": {"eps": -1e-9}},
        {"ratio": "word"},
        {"surrogate": {"kind": "ppo"}},
        {"kl": "k4", "kl_coef": 0.1},
        {"surrogate": {"kind": "reinforce", "high": 0.3}},
        {"surrogate": {"kind": "reinforce", "low": 0.3}},
        {"surrogate": {"kind": "reinforce"}, "ratio": "sequence"},
    ],
)
def test_an_option_beyond_its_range_or_without_a_use_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Input should|Input tag 'ppo'|not permitted|does not use it"):
        LossConfig.model_validate(options)


def test_options_at_the_ends_of_their_ranges_are_taken() -> None:
    assert LossConfig(surrogate=Clipped(low=0.0, high=0.0), advantage=AdvantageConfig(eps=0.0)).advantage.eps == 0.0
    assert LossConfig(surrogate=Clipped(low=1.0, high=50.0), kl="k2", kl_coef=1e-6).kl_coef == 1e-6
    assert LossConfig(surrogate=Cispo(high=0.0), ratio="sequence").surrogate == Cispo(high=0.0)


def test_a_surrogate_without_a_kind_is_clipped() -> None:
    assert LossConfig.model_validate({"surrogate": {"high": 0.28}}).surrogate == Clipped(high=0.28)


SMALL: dict[str, Any] = {
    "model": {"path": "base"},
    "data": [{"source": "world", "task": "compare"}],
    "stages": [{"max_new_tokens": 8, "group_size": 2}],
    "num_steps": 1,
    "optim": {"lr": 1e-4},
}


def test_reinforce_is_refused_for_more_than_one_update_per_rollout() -> None:
    recipe = SMALL | {"loss": {"surrogate": {"kind": "reinforce"}}}
    assert RLRecipe.model_validate(recipe).loss.surrogate.kind == "reinforce"
    with pytest.raises(ValueError, match="correct for one update only"):
        RLRecipe.model_validate(recipe | {"update": {"updates_per_rollout": 2}})


GSPO = {"ratio": "sequence", "surrogate": {"low": 3e-4, "high": 4e-4}, "aggregation": "sequence_mean"}


def gspo(dtype: str = "float32", **update: Any) -> RLRecipe:
    return RLRecipe.model_validate(SMALL | {"model": {"path": "base", "dtype": dtype}, "loss": GSPO, "update": update})


def test_ratios_of_sequences_start_from_recomputed_log_probs_and_the_limit_follows_the_clip() -> None:
    resolved = gspo("bfloat16").update.resolved(gspo().loss)
    assert (resolved.old_logprobs, resolved.sampler_gap_limit) == ("recompute", pytest.approx(7.5e-5))
    tokens = RLRecipe.model_validate(SMALL)
    assert tokens.update.resolved(tokens.loss).old_logprobs == "sampler"
    assert tokens.update.resolved(tokens.loss).sampler_gap_limit == 0.05
    given = gspo(old_logprobs="sampler", sampler_gap_limit=0.3)
    assert given.update.resolved(given.loss) == given.update


def test_ratios_of_sequences_from_the_sampler_in_half_precision_are_refused() -> None:
    assert gspo("float32", old_logprobs="sampler").update.old_logprobs == "sampler"
    with pytest.raises(ValueError, match=r"'sampler' with loss\.ratio 'sequence' in bfloat16"):
        gspo("bfloat16", old_logprobs="sampler")


@pytest.mark.parametrize("clip", [{}, {"low": 0.2, "high": 0.28}, {"low": 3e-4, "high": 0.2}])
def test_a_clip_of_token_size_is_refused_for_ratios_of_sequences(clip: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"for ratios of sequences, which it would never reach.*3\.0e-4"):
        RLRecipe.model_validate(SMALL | {"loss": GSPO | {"surrogate": clip}})


def test_every_name_that_a_recipe_may_give_is_in_its_table() -> None:
    tables = {"ratio": RATIOS, "kl": PENALTIES, "aggregation": AGGREGATES}
    named = {key: get_args(LossConfig.model_fields[key].annotation) for key in tables}
    assert named == {key: tuple(table) for key, table in tables.items()}


def test_without_options_advantages_are_those_of_the_neutral_recipe() -> None:
    # rewards 1 0: mean 1/2, unbiased std sqrt(1/2), plus 1e-4
    expected = pytest.approx([0.5 / (math.sqrt(0.5) + 1e-4), -0.5 / (math.sqrt(0.5) + 1e-4)], rel=1e-9)
    rewards_G = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert advantages(rewards_G).tolist() == expected
    assert build_advantages(AdvantageConfig())([GroupRewards(rewards_G)])[0].tolist() == expected


def test_every_option_of_a_recipe_reaches_the_advantages() -> None:
    rewards_G = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert build_advantages(AdvantageConfig(std=False))([GroupRewards(rewards_G)])[0].tolist() == [0.5, -0.5]
    biased = build_advantages(AdvantageConfig(eps=0.5, unbiased=False))([GroupRewards(rewards_G)])[
        0
    ]  # 0.5 / (0.5 + 0.5)
    assert biased.tolist() == pytest.approx([0.5, -0.5])


def test_rewards_that_differ_only_at_the_end_have_a_signal() -> None:
    assert advantages(torch.tensor([0.0, 0.0, 0.0, 1.0]), std=False).tolist() == [-0.25, -0.25, -0.25, 0.75]


def test_what_a_step_is_made_of_cannot_be_changed() -> None:
    none_R = torch.zeros(0)
    for part in (Denominators(1, 1), LossInputs(none_R, none_R, none_R, none_R, 0), LossOutput(none_R, {})):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, dataclasses.fields(part)[0].name, 2)


@pytest.mark.parametrize(("tokens", "sequences"), [(0, 1), (1, 0), (0, 0)])
def test_a_step_without_a_token_or_a_rollout_is_refused(tokens: int, sequences: int) -> None:
    with pytest.raises(ValueError, match="at least one token and one rollout"):
        Denominators(tokens, sequences)


def test_a_cap_of_one_token_is_a_constant_to_divide_by_and_no_cap_is_none() -> None:
    values_R, index_R = torch.tensor([1.0, 3.0]), torch.tensor([0, 1])
    assert float(AGGREGATES["constant"](values_R, index_R, 2, Denominators(2, 2, max_length=1))) == 2.0
    with pytest.raises(ValueError, match="got max_length 0"):
        AGGREGATES["constant"](values_R, index_R, 2, Denominators(2, 2))


def test_a_branch_without_tokens_has_mean_zero_and_length_one() -> None:
    index_R = torch.tensor([0, 0, 2])
    assert branch_lengths(index_R, 4).tolist() == [2, 1, 1, 1]
    assert branch_mean(torch.tensor([1.0, 2.0, 5.0]), index_R, 4).tolist() == [1.5, 0.0, 5.0, 0.0]


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_log_ratio_counts_up_to_twenty_either_way(ratio: str) -> None:
    log_ratio_R = torch.tensor([19.5, 21.0, -19.5, -21.0], dtype=torch.float64)
    expected = [math.exp(19.5), math.exp(20.0), math.exp(-19.5), math.exp(-20.0)]
    assert RATIOS[ratio](log_ratio_R, torch.arange(4), 4).tolist() == pytest.approx(expected, rel=1e-12)


def on(logprobs_R: torch.Tensor, advantages_R: torch.Tensor) -> LossInputs:
    """Tokens of one reply with these log-probs and advantages."""
    return LossInputs(logprobs_R, logprobs_R, advantages_R, torch.zeros(len(logprobs_R), dtype=torch.long), 1)


def test_a_ratio_on_the_edge_of_the_clip_is_not_cut() -> None:
    edges_R, inside_R = torch.tensor([0.75, 1.5]), torch.zeros(2)
    assert clipped(edges_R, on(inside_R, torch.tensor([-1.0, 1.0])), 0.25, 0.5)[1].tolist() == [False, False]
    assert cispo(edges_R, on(inside_R, torch.tensor([-1.0, 1.0])), 0.5)[1].tolist() == [False, False]
    beyond_R = torch.tensor([0.7, 1.6])
    assert clipped(beyond_R, on(inside_R, torch.tensor([-1.0, 1.0])), 0.25, 0.5)[1].tolist() == [True, True]
    assert clipped(beyond_R, on(inside_R, torch.tensor([0.0, 0.0])), 0.25, 0.5)[1].tolist() == [False, False]
    assert cispo(beyond_R, on(inside_R, torch.tensor([-1.0, -1.0])), 0.5)[1].tolist() == [False, True]


def test_reinforce_weighs_log_probs_by_the_advantage_and_cuts_nothing() -> None:
    objective_R, cut_R = reinforce(torch.tensor([9.0, 0.1]), on(torch.tensor([-1.0, -2.0]), torch.tensor([3.0, -1.0])))
    assert (objective_R.tolist(), cut_R.tolist()) == ([-3.0, 2.0], [False, False])


def test_a_loss_to_the_number() -> None:
    # ratios 2 and 1/2 of one reply with advantage 1: min(2, 1.2) + min(0.5, 0.8) = 1.7, over 2 tokens
    logprobs_R = torch.tensor([math.log(2.0), math.log(0.5)], dtype=torch.float64)
    zeros_R = torch.zeros(2, dtype=torch.float64)
    one = LossInputs(
        logprobs_R, zeros_R, torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.long), 1, zeros_R
    )
    plain = build_loss(LossConfig())(one, Denominators(2, 1))
    assert float(plain.loss) == pytest.approx(-0.85)
    assert {name: float(value) for name, value in plain.metrics.items()} == pytest.approx(
        {"policy/clip_fraction": 1.0, "policy/ratio_mean": 2.5}
    )
    # k3 of both: (1/2 + log 2 - 1) + (2 - log 2 - 1) = 1/2
    charged = build_loss(LossConfig(kl_coef=0.5))(one, Denominators(2, 1))
    assert float(charged.loss) == pytest.approx(-0.85 + 0.5 * 0.5 / 2)
    assert float(charged.metrics["policy/kl"]) == pytest.approx(0.5)


def test_the_gap_to_the_sampler_is_a_sum_and_a_maximum_of_distances() -> None:
    assert sampler_gap(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.5, -1.0, -3.0])) == (1.5, 1.0)
    assert sampler_gap(torch.zeros(0), torch.zeros(0)) == (0.0, 0.0)


def test_the_vision_r1_recipe_makes_the_inferred_four_updates_by_option() -> None:
    recipe = load("vision_r1_7b", RLRecipe, ["prompts_per_step=512", "update.mini_batches=4"], {"SACCADE_DATA": "."})
    assert (recipe.prompts_in(recipe.stages[0]), recipe.update.optimizer_steps) == (512, 4)
    assert load("vision_r1_7b", RLRecipe, [], {"SACCADE_DATA": "."}).update.optimizer_steps == 1
