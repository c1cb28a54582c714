"""The policy loss, composed once from its parts: aggregate(-surrogate(ratio, advantage) + kl_coef * kl).

R: packed tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.algorithm.aggregate import AGGREGATES, Denominators
from saccade.algorithm.config import LossConfig
from saccade.algorithm.kl import DIVERGENCES
from saccade.algorithm.ratio import RATIOS


@dataclass(frozen=True, slots=True)
class LossInputs:
    """What a micro-batch brings. Only `logprobs_R` carries a gradient."""

    logprobs_R: Tensor
    """Of the policy being trained, under the sampling temperature."""
    old_logprobs_R: Tensor
    """Of the policy that sampled, under the same temperature."""
    advantages_R: Tensor
    """One per token; equal within a completion unless credit is assigned by token."""
    branch_index_R: Tensor
    """Which branch (completion) a token belongs to, 0..num_branches-1."""
    num_branches: int
    ref_logprobs_R: Tensor | None = None
    """Of the reference model; needed when kl_coef > 0."""


@dataclass(frozen=True, slots=True)
class LossOutput:
    """The micro-batch's share of the step's loss, and sums over its tokens for the metrics (divide by tokens)."""

    loss: Tensor
    metrics: Mapping[str, Tensor]
    """Detached sums over tokens: `policy/clip_fraction`, `policy/ratio_mean`, `policy/kl` (with a reference)."""


Loss = Callable[[LossInputs, Denominators], LossOutput]


def build_loss(config: LossConfig) -> Loss:
    """Looks the parts up once and returns the loss as a function of data only."""
    ratio, surrogate = RATIOS[config.ratio], config.surrogate.build()
    divergence, aggregate = DIVERGENCES[config.kl], AGGREGATES[config.aggregation]
    kl_coef = config.kl_coef

    def loss(inputs: LossInputs, denominators: Denominators) -> LossOutput:
        index_R, num_branches = inputs.branch_index_R, inputs.num_branches
        log_ratio_R = inputs.logprobs_R - inputs.old_logprobs_R.detach()
        ratio_R = ratio(log_ratio_R, index_R, num_branches)
        objective_R, cut_R = surrogate(ratio_R, inputs.logprobs_R, inputs.advantages_R)
        metrics = {"policy/clip_fraction": cut_R.sum(), "policy/ratio_mean": ratio_R.detach().sum()}
        values_R = -objective_R
        if kl_coef > 0:
            if inputs.ref_logprobs_R is None:
                raise ValueError(f"kl_coef is {kl_coef}, but no log-probs of a reference model were given")
            kl_R = divergence(inputs.logprobs_R, inputs.ref_logprobs_R.detach())
            values_R = values_R + kl_coef * kl_R
            metrics["policy/kl"] = kl_R.detach().sum()
        return LossOutput(aggregate(values_R, index_R, num_branches, denominators), metrics)

    return loss


@torch.no_grad()
def sampler_gap(logprobs_R: Tensor, sampler_logprobs_R: Tensor) -> tuple[float, float]:
    """(sum, max) over tokens of |trainer log-prob - sampler log-prob|: how much the two disagree."""
    gap_R = (logprobs_R - sampler_logprobs_R).abs()
    return (float(gap_R.sum()), float(gap_R.max())) if len(gap_R) else (0.0, 0.0)
