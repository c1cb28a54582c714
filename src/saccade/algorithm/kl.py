"""Estimators of KL(policy || reference) per token, from tokens of the policy (J. Schulman, "Approximating KL
divergence", 2020). Used as a term of the loss, so their gradients matter more than their values: k1, log p - log ref,
is not among them, because its expected on-policy gradient is 0. R: packed tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def k2(logprobs_R: Tensor, ref_logprobs_R: Tensor) -> Tensor:
    """(log p - log ref)^2 / 2: biased value, but its on-policy gradient is that of the KL."""
    return 0.5 * (logprobs_R - ref_logprobs_R).square()


def k3(logprobs_R: Tensor, ref_logprobs_R: Tensor) -> Tensor:
    """exp(ref - p) - (ref - p) - 1: unbiased and never negative; what GRPO, VLM-R1 and Vision-R1 use."""
    gap_R = ref_logprobs_R - logprobs_R
    return gap_R.exp() - gap_R - 1.0


Divergence = Callable[[Tensor, Tensor], Tensor]

DIVERGENCES: dict[str, Divergence] = {"k2": k2, "k3": k3}
