"""Objectives per token, to be maximized; each also returns which tokens its clip has cut off. R: packed tokens.

Options come last and are bound by the surrogate's config (`saccade.algorithm.config`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def clipped(
    ratio_R: Tensor, logprobs_R: Tensor, advantages_R: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """PPO's min(r A, clip(r, 1 - low, 1 + high) A); high > low is DAPO's clip-higher (arXiv:2503.14476, eq. 8)."""
    objective_R = torch.minimum(ratio_R * advantages_R, ratio_R.clamp(1.0 - low, 1.0 + high) * advantages_R)
    too_high_R = (ratio_R > 1.0 + high) & (advantages_R > 0)
    too_low_R = (ratio_R < 1.0 - low) & (advantages_R < 0)
    return objective_R, too_high_R | too_low_R


def cispo(ratio_R: Tensor, logprobs_R: Tensor, advantages_R: Tensor, high: float) -> tuple[Tensor, Tensor]:
    """MiniMax-M1 (arXiv:2506.13585, eq. 4): sg(min(r, 1 + high)) A log p. The weight is cut, never the gradient."""
    weight_R = ratio_R.detach().clamp(max=1.0 + high)
    return weight_R * advantages_R * logprobs_R, ratio_R.detach() > 1.0 + high


def reinforce(ratio_R: Tensor, logprobs_R: Tensor, advantages_R: Tensor) -> tuple[Tensor, Tensor]:
    """Williams 1992: A log p, without a ratio; correct only for the first update on a rollout."""
    return advantages_R * logprobs_R, torch.zeros_like(ratio_R, dtype=torch.bool)


Surrogate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(ratio_R, logprobs_R, advantages_R) -> (objective_R, cut_R)."""
