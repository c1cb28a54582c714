"""The policy loss, composed once from its parts:

    aggregate(-weight * chosen * surrogate(ratio, advantage) + kl_coef * kl - entropy_coef * entropy)

R: packed tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.algorithm.aggregate import AGGREGATES, Denominators
from saccade.algorithm.config import LossConfig
from saccade.algorithm.correction import off_policy_mask
from saccade.algorithm.correction_config import OffPolicyMask
from saccade.algorithm.inputs import LossInputs
from saccade.algorithm.kl import DIVERGENCES
from saccade.algorithm.ratio import RATIOS


@dataclass(frozen=True, slots=True)
class LossOutput:
    """The micro-batch's share of the step's loss, and sums over its tokens for the metrics (divide by tokens)."""

    loss: Tensor
    metrics: Mapping[str, Tensor]
    """Detached sums over tokens: `policy/clip_fraction`, `policy/ratio_mean`, `policy/kl` (with a reference),
    `sampler/masked` (with a correction: tokens whose weight is 0)."""


Loss = Callable[[LossInputs, Denominators], LossOutput]


def build_loss(config: LossConfig) -> Loss:
    """Looks the parts up once and returns the loss as a function of data only."""
    ratio, surrogate = RATIOS[config.ratio], config.surrogate.build()
    divergence, aggregate = DIVERGENCES.get(config.kl), AGGREGATES[config.aggregation]

    def loss(inputs: LossInputs, denominators: Denominators) -> LossOutput:
        index_R, num_branches = inputs.branch_index_R, inputs.num_branches
        log_ratio_R = inputs.logprobs_R - inputs.old_logprobs_R.detach()
        ratio_R = ratio(log_ratio_R, index_R, num_branches)
        objective_R, cut_R = surrogate(ratio_R, inputs)
        metrics = {"policy/clip_fraction": cut_R.sum(), "policy/ratio_mean": ratio_R.detach().sum()}
        if inputs.chosen_R is not None:
            objective_R = objective_R * inputs.chosen_R
        for weight_R in weights_of(config, inputs):
            objective_R = objective_R * weight_R
            metrics["sampler/masked"] = metrics.get("sampler/masked", 0) + (weight_R == 0).sum()
        values_R = -objective_R
        if config.charges_kl and divergence is not None:
            if inputs.ref_logprobs_R is None:
                raise ValueError(f"kl_coef is {config.kl_coef}, but no log-probs of a reference model were given")
            kl_R = divergence(inputs.logprobs_R, inputs.ref_logprobs_R.detach())
            values_R = values_R + config.kl_coef * kl_R
            metrics["policy/kl"] = kl_R.detach().sum()
        if config.entropy_coef > 0:
            if inputs.entropy_R is None:
                raise ValueError(f"entropy_coef is {config.entropy_coef}, but no entropies were given")
            values_R = values_R - config.entropy_coef * inputs.entropy_R
        return LossOutput(aggregate(values_R, index_R, num_branches, denominators), metrics)

    return loss


def weights_of(config: LossConfig, inputs: LossInputs) -> list[Tensor]:
    """The weights of the recipe's correction, at most one."""
    found = [] if inputs.weight_R is None else [inputs.weight_R]
    if isinstance(config.correction, OffPolicyMask):
        found.append(off_policy_mask(inputs, config.correction.limit))
    return found


@torch.no_grad()
def sampler_gap(logprobs_R: Tensor, sampler_logprobs_R: Tensor) -> tuple[float, float]:
    """(sum, max) over tokens of |trainer log-prob - sampler log-prob|: how much the two disagree."""
    gap_R = (logprobs_R - sampler_logprobs_R).abs()
    return (float(gap_R.sum()), float(gap_R.max())) if len(gap_R) else (0.0, 0.0)
