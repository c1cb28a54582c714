"""From the rewards of a step to advantages: how much better a completion is than what to expect.

GRPO (DeepSeekMath, arXiv:2402.03300, eq. 3): A_i = (r_i - mean r) / (std r + eps). Without the division it is Dr.GRPO's
(arXiv:2503.20783). Shape letters: G completions of one group; T tokens of a completion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saccade.algorithm.advantage_config import AnyAdvantage


@dataclass(frozen=True, slots=True)
class GroupRewards:
    """The rewards of one group, and what some advantages read besides."""

    rewards_G: Tensor
    """Totals, float64."""
    mask_G: Tensor | None = None
    """True where a member counts; None is everywhere."""
    lengths_G: Tensor | None = None
    """Loss tokens of each member (REINFORCE++); None is one each."""
    parts: Mapping[str, tuple[float, Tensor]] = field(default_factory=dict)
    """Weight and rewards_G of each part of the rubric (GDPO)."""
    penalties: tuple[Tensor, ...] | None = None
    """KL in the reward: what is taken off at each token, [T] per member. None takes off nothing."""

    @property
    def counts_G(self) -> Tensor:
        """True where a member counts."""
        return torch.ones_like(self.rewards_G, dtype=torch.bool) if self.mask_G is None else self.mask_G.bool()

    @property
    def net_G(self) -> Tensor:
        """Rewards less the penalties of all tokens."""
        if self.penalties is None:
            return self.rewards_G
        return self.rewards_G - torch.stack([one.double().sum() for one in self.penalties]).to(self.rewards_G.dtype)


Credit = Tensor | list[Tensor]
"""advantages_G of a group, or one per token: [T] of each member."""
Advantages = Callable[[Sequence[GroupRewards]], list[Credit]]
"""The groups of a step -> the credit of each. A masked member gets 0."""


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
    kept = _kept(rewards_G, counts_G)
    result_G = torch.zeros_like(rewards_G)
    if len(kept) < 2 or bool((kept == kept[0]).all()):
        return result_G
    centered = kept - kept.mean()
    if std:
        centered = centered / (kept.std(correction=int(unbiased)) + eps)
    result_G[counts_G] = centered.to(rewards_G.dtype)
    return result_G


def _kept(rewards_G: Tensor, counts_G: Tensor) -> Tensor:
    """The rewards that count, in float64. ValueError unless they are a vector of finite numbers."""
    if rewards_G.ndim != 1 or counts_G.shape != rewards_G.shape:
        raise ValueError(
            f"advantages: got rewards {tuple(rewards_G.shape)} and mask {tuple(counts_G.shape)}; "
            "expected two vectors of one length"
        )
    kept = rewards_G[counts_G].double()
    if not torch.isfinite(kept).all():
        raise ValueError(f"advantages: got {kept.tolist()}; expected finite rewards (mask one that failed)")
    return kept


def _all(pieces: Sequence[Tensor]) -> Tensor:
    """The pieces in a row; a step may have none."""
    return torch.cat([torch.zeros(0, dtype=torch.float64), *pieces])


def group_relative(groups: Sequence[GroupRewards], *, std: bool | str, eps: float, unbiased: bool) -> list[Credit]:
    """`advantages` within each group; std 'batch' divides by the standard deviation of all rewards of the step that
    count (TRL's scale_rewards 'batch')."""
    if std != "batch":
        return [advantages(g.net_G, g.mask_G, std=bool(std), eps=eps, unbiased=unbiased) for g in groups]
    centered = [advantages(g.net_G, g.mask_G, std=False) for g in groups]
    everything = _all([_kept(g.net_G, g.counts_G) for g in groups])
    scale = float(everything.std(correction=int(unbiased))) + eps if len(everything) > 1 else 1.0
    return [one_G / scale if scale > 0 else one_G for one_G in centered]


def leave_one_out(groups: Sequence[GroupRewards]) -> list[Credit]:
    """RLOO (arXiv:2402.14740): A_i = r_i - mean of the siblings' rewards = G / (G - 1) (r_i - mean r)."""
    found: list[Credit] = []
    for group in groups:
        count = int(group.counts_G.sum())
        found.append(advantages(group.net_G, group.mask_G, std=False) * (count / max(1, count - 1)))
    return found


def reinforce_pp(groups: Sequence[GroupRewards], *, baseline: bool, eps: float) -> list[Credit]:
    """REINFORCE++ (arXiv:2501.03262): the return of a token, normalized by mean and standard deviation over all tokens
    of the step.

    Without a baseline the return is r minus the penalties from that token on; with one it is r minus the group's
    mean, the same for every token. When all returns are equal, all advantages are 0.
    """
    returns = [_centered(g) if baseline else g.net_G.where(g.counts_G, torch.zeros_like(g.net_G)) for g in groups]
    if not baseline and any(g.penalties is not None for g in groups):
        return _normalized_by_token(groups, eps)
    counted = [g.counts_G for g in groups]
    values = _all([_kept(one, mask) for one, mask in zip(returns, counted, strict=True)])
    weights = _all([_lengths(g)[mask] for g, mask in zip(groups, counted, strict=True)])
    mean, scale = _moments(values, weights, eps)
    return [
        ((one - mean) * scale).where(mask, torch.zeros_like(one)) for one, mask in zip(returns, counted, strict=True)
    ]


def _centered(group: GroupRewards) -> Tensor:
    return advantages(group.net_G, group.mask_G, std=False)


def _lengths(group: GroupRewards) -> Tensor:
    lengths_G = torch.ones_like(group.rewards_G) if group.lengths_G is None else group.lengths_G
    return lengths_G.double()


def _moments(values: Tensor, weights: Tensor, eps: float) -> tuple[float, float]:
    """(mean, 1 / (std + eps)) of values that each count `weights` times; a scale of 0 when they are all equal."""
    total = float(weights.sum())
    if total < 2 or bool((values == values[0]).all()):
        return (float(values[0]) if len(values) else 0.0), 0.0
    mean = float((weights * values).sum()) / total
    variance = float((weights * (values - mean).square()).sum()) / (total - 1)
    return mean, 1.0 / (variance**0.5 + eps)


def _normalized_by_token(groups: Sequence[GroupRewards], eps: float) -> list[Credit]:
    """Returns from each token on, r_i - sum of the penalties of t, t+1, ..., normalized over all tokens."""
    returns: list[list[Tensor]] = []
    for group in groups:
        taken = group.penalties or tuple(torch.zeros(int(n)) for n in _lengths(group).tolist())
        rest = [one.double().flip(0).cumsum(0).flip(0) for one in taken]
        returns.append([reward - one for reward, one in zip(group.rewards_G.double(), rest, strict=True)])
    counted = [
        one
        for group, own in zip(groups, returns, strict=True)
        for one, ok in zip(own, group.counts_G, strict=True)
        if ok
    ]
    values = _all(counted)
    mean, scale = _moments(values, torch.ones_like(values), eps)
    return [
        [(one - mean) * scale * bool(ok) for one, ok in zip(own, group.counts_G, strict=True)]
        for group, own in zip(groups, returns, strict=True)
    ]


def gdpo(groups: Sequence[GroupRewards], *, weights: Mapping[str, float], eps: float) -> list[Credit]:
    """GDPO (arXiv:2601.05242): A_i = sum over rewards k of w_k (r_ik - mean_k) / (std_k + eps), within the
    group, then normalized by mean and standard deviation over the step.

    ValueError for a weight of a part that no rubric has, and for a group without parts.
    """
    if unknown := set(weights) - {name for group in groups for name in group.parts}:
        known = ", ".join(sorted({name for group in groups for name in group.parts})) or "none"
        raise ValueError(
            f"loss.advantage.weights: got {', '.join(sorted(unknown))}, which no rubric of this step has as a part; "
            f"there are: {known}"
        )
    if any(not group.parts for group in groups):
        raise ValueError("advantage 'gdpo' normalizes the parts of a rubric, but a group has none; use a rubric")
    sums = []
    for group in groups:
        total_G = torch.zeros_like(group.net_G)
        for name, (weight, part_G) in group.parts.items():
            total_G = total_G + weights.get(name, weight) * advantages(part_G, group.mask_G, eps=eps)
        sums.append(total_G)
    counted = [g.counts_G for g in groups]
    values = _all([_kept(one, mask) for one, mask in zip(sums, counted, strict=True)])
    mean, scale = _moments(values, torch.ones_like(values), eps)
    return [((one - mean) * scale).where(mask, torch.zeros_like(one)) for one, mask in zip(sums, counted, strict=True)]


def build_advantages(config: AnyAdvantage) -> Advantages:
    """The advantages of a recipe: a function of the rewards of all groups of a step."""
    return config.build()
