"""Estimators of KL(policy || reference) per token, from tokens of the policy (J. Schulman, "Approximating KL
divergence", 2020). As a term of the loss their gradients matter more than their values: k1, log p - log ref, is not
among those, because its expected on-policy gradient is 0. In the reward the values matter, and k1 is unbiased. R:
packed tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from saccade.algorithm.ratio import MAX_LOG_RATIO


def k1(logprobs_R: Tensor, ref_logprobs_R: Tensor) -> Tensor:
    """log p - log ref: unbiased, of either sign."""
    return logprobs_R - ref_logprobs_R


def k2(logprobs_R: Tensor, ref_logprobs_R: Tensor) -> Tensor:
    """(log p - log ref)^2 / 2: biased value, but its on-policy gradient is that of the KL."""
    return 0.5 * (logprobs_R - ref_logprobs_R).square()


def k3(logprobs_R: Tensor, ref_logprobs_R: Tensor) -> Tensor:
    """exp(ref - p) - (ref - p) - 1: unbiased and never negative; what GRPO, VLM-R1 and Vision-R1 use."""
    gap_R = ref_logprobs_R - logprobs_R
    return gap_R.exp() - gap_R - 1.0


Divergence = Callable[[Tensor, Tensor], Tensor]

DIVERGENCES: dict[str, Divergence] = {"k2": k2, "k3": k3}
"""As a term of the loss."""
PENALTIES: dict[str, Divergence] = {"k1": k1, **DIVERGENCES}
"""In the reward, without a gradient."""


def kl_penalties(name: str, coef: float, logprobs_R: Tensor, ref_logprobs_R: Tensor) -> Tensor:
    """What a KL in the reward takes off at each token, [R]: coef x KL, with log ratios within +-20. A token without a
    log-prob of the policy costs nothing."""
    gap_R = (logprobs_R - ref_logprobs_R).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).nan_to_num(nan=0.0)
    return coef * PENALTIES[name](gap_R, gap_R.new_zeros(()))
