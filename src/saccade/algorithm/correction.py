"""Corrections for a sampler whose log-probs are not the trainer's: other kernels, other precision, older weights.

d_t = log p_train(y_t) - log p_sampler(y_t), both without gradient and at the weights that sampled. Each function gives
a weight per token, which multiplies the policy loss of that token, and which tokens are kept; the others leave the loss
and its denominators. R: packed tokens; B: completions (branches).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saccade.algorithm.inputs import LossInputs
from saccade.algorithm.ratio import MAX_LOG_RATIO, bounded_exp, branch_max, branch_mean, branch_sum

Corrected = tuple[Tensor | None, Tensor | None]
"""(weight_R, kept_R); None is 1 and True everywhere."""
Correction = Callable[[Tensor, Tensor, int], Corrected]
"""(gap_R = d, branch_index_R, num_branches) -> weights and kept tokens."""


def none(gap_R: Tensor, branch_index_R: Tensor, num_branches: int) -> Corrected:
    return None, None


def token_truncate(gap_R: Tensor, branch_index_R: Tensor, num_branches: int, low: float, high: float) -> Corrected:
    """Truncated importance sampling (Ionides 2008): min(exp d_t, high)."""
    return bounded_exp(gap_R).clamp(low, high), None


def token_mask(gap_R: Tensor, branch_index_R: Tensor, num_branches: int, low: float, high: float) -> Corrected:
    """exp d_t where it is in [low, high], else 0 (IcePop, arXiv:2510.18855)."""
    return _inside(bounded_exp(gap_R), low, high), None


def sequence_truncate(gap_R: Tensor, branch_index_R: Tensor, num_branches: int, low: float, high: float) -> Corrected:
    """min(exp(sum_t d_t), high) at every token of the reply."""
    return _whole_reply(gap_R, branch_index_R, num_branches).clamp(low, high), None


def sequence_mask(gap_R: Tensor, branch_index_R: Tensor, num_branches: int, low: float, high: float) -> Corrected:
    """exp(sum_t d_t) at every token of the reply where it is in [low, high], else 0."""
    return _inside(_whole_reply(gap_R, branch_index_R, num_branches), low, high), None


def _whole_reply(gap_R: Tensor, branch_index_R: Tensor, num_branches: int) -> Tensor:
    return bounded_exp(branch_sum(gap_R, branch_index_R, num_branches))[branch_index_R]


def _inside(weight_R: Tensor, low: float, high: float) -> Tensor:
    return torch.where((weight_R >= low) & (weight_R <= high), weight_R, torch.zeros_like(weight_R))


def k1(gap_R: Tensor) -> Tensor:
    return -gap_R


def k2(gap_R: Tensor) -> Tensor:
    return 0.5 * gap_R.square()


def k3(gap_R: Tensor) -> Tensor:
    return gap_R.exp() - gap_R - 1.0


ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
"""Of KL(sampler || trainer) per token, from the sampler's tokens."""
OVER = {"sum": branch_sum, "mean": branch_mean, "max": branch_max}


def rejection(
    gap_R: Tensor,
    branch_index_R: Tensor,
    num_branches: int,
    *,
    estimator: str,
    level: str,
    over: str,
    limits: tuple[float, float],
) -> Corrected:
    """Keeps the tokens, or all tokens of the replies, whose estimate is within the limits. Those of k1 are of the
    ratio exp(-k1): p_train / p_sampler, and with over 'mean' of its geometric mean."""
    value_R = ESTIMATORS[estimator](gap_R.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    if level == "sequence":
        value_R = OVER[over](value_R, branch_index_R, num_branches)[branch_index_R]
    if estimator == "k1":
        value_R = bounded_exp(-value_R)
    return None, (value_R >= limits[0]) & (value_R <= limits[1])


@torch.no_grad()
def off_policy_mask(inputs: LossInputs, limit: float) -> Tensor:
    """Off-policy sequence mask (DeepSeek-V3.2, arXiv:2512.02556): 0 at the tokens of replies with A < 0 for which the
    mean of log p_sampler - log p exceeds `limit`, else 1, [R]."""
    assert inputs.sampler_logprobs_R is not None  # the trainer gives them with this correction
    gap_R = inputs.sampler_logprobs_R - inputs.logprobs_R
    mean_B = branch_mean(gap_R, inputs.branch_index_R, inputs.num_branches)
    far_R = (mean_B > limit)[inputs.branch_index_R] & (inputs.advantages_R < 0)
    return (~far_R).to(gap_R.dtype)
