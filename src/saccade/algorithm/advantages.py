"""Group-relative advantages: how much better a completion is than its siblings.

GRPO (DeepSeekMath, arXiv:2402.03300, eq. 3): A_i = (r_i - mean r) / (std r + eps). Without the division it is Dr.GRPO's
(arXiv:2503.20783). Shape letter: G completions of one group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from saccade.algorithm.config import AdvantageConfig


def advantages(
    rewards_G: Tensor,
    mask_G: Tensor | None = None,
    *,
    std: bool = True,
    eps: float = 1e-4,
    unbiased: bool = True,
) -> Tensor:
    """Centered (and scaled) rewards of one group, in the dtype of the rewards.

    `mask_G` is True where a member counts; masked members get 0 and are excluded from mean and std. Fewer than two
    members that count, or equal rewards, give exactly 0 for all. ValueError for another rank, unequal shapes or a
    reward that is not finite.
    """
    counts_G = torch.ones_like(rewards_G, dtype=torch.bool) if mask_G is None else mask_G.bool()
    if rewards_G.ndim != 1 or counts_G.shape != rewards_G.shape:
        raise ValueError(
            f"advantages: got rewards {tuple(rewards_G.shape)} and mask {tuple(counts_G.shape)}; "
            "expected two vectors of one length"
        )
    kept = rewards_G[counts_G].double()
    if not torch.isfinite(kept).all():
        raise ValueError(f"advantages: got {kept.tolist()}; expected finite rewards (mask one that failed)")
    result_G = torch.zeros_like(rewards_G)
    if len(kept) < 2 or bool((kept == kept[0]).all()):
        return result_G
    centered = kept - kept.mean()
    if std:
        centered = centered / (kept.std(correction=int(unbiased)) + eps)
    result_G[counts_G] = centered.to(rewards_G.dtype)
    return result_G


Advantages = Callable[[Sequence[Tensor], Sequence[Tensor | None]], list[Tensor]]
"""(rewards_G of each group of a step, mask_G of each) -> advantages_G of each."""


def build_advantages(config: AdvantageConfig) -> Advantages:
    """`advantages` within each group, with the options of a recipe."""
    within = partial(advantages, std=config.std, eps=config.eps, unbiased=config.unbiased)
    return lambda rewards, masks: [within(one, mask) for one, mask in zip(rewards, masks, strict=True)]
