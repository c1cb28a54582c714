"""Objectives per token, to be maximized; each also returns which tokens its clip has cut off. R: packed tokens.

Options come last and are bound by the surrogate's config (`saccade.algorithm.surrogate_config`). A is the advantage,
r the ratio.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saccade.algorithm.inputs import LossInputs
from saccade.algorithm.ratio import bounded_exp, branch_mean

Objective = tuple[Tensor, Tensor]
"""objective_R, cut_R."""


def clipped(ratio_R: Tensor, inputs: LossInputs, low: float, high: float, dual: float | None = None) -> Objective:
    """PPO's min(r A, clip(r, 1 - low, 1 + high) A); high > low is DAPO's clip-higher (arXiv:2503.14476, eq. 8).

    With `dual` (arXiv:1912.09729) it is max(that, dual A) where A < 0: a token that became much likelier although its
    reply was bad no longer counts without limit.
    """
    advantages_R = inputs.advantages_R
    objective_R = torch.minimum(ratio_R * advantages_R, ratio_R.clamp(1.0 - low, 1.0 + high) * advantages_R)
    too_high_R = (ratio_R > 1.0 + high) & (advantages_R > 0)
    too_low_R = (ratio_R < 1.0 - low) & (advantages_R < 0)
    cut_R = too_high_R | too_low_R
    if dual is not None:
        bounded_R = torch.maximum(objective_R, dual * advantages_R)
        objective_R = torch.where(advantages_R < 0, bounded_R, objective_R)
        cut_R = cut_R | ((ratio_R > dual) & (advantages_R < 0))
    return objective_R, cut_R


def cispo(ratio_R: Tensor, inputs: LossInputs, high: float) -> Objective:
    """MiniMax-M1 (arXiv:2506.13585, eq. 4): sg(min(r, 1 + high)) A log p. The weight is cut, never the gradient."""
    weight_R = ratio_R.detach().clamp(max=1.0 + high)
    return weight_R * inputs.advantages_R * inputs.logprobs_R, ratio_R.detach() > 1.0 + high


def reinforce(ratio_R: Tensor, inputs: LossInputs) -> Objective:
    """Williams 1992: A log p, without a ratio; correct only for the first update on a rollout."""
    return inputs.advantages_R * inputs.logprobs_R, torch.zeros_like(ratio_R, dtype=torch.bool)


def sapo(ratio_R: Tensor, inputs: LossInputs, tau_positive: float, tau_negative: float) -> Objective:
    """SAPO (arXiv:2511.20347): 4 / tau sigmoid(tau (r - 1)) A, a soft gate in place of the clip; tau depends on the
    sign of A. Nothing is cut off."""
    advantages_R = inputs.advantages_R
    tau_R = torch.where(advantages_R > 0, ratio_R.new_tensor(tau_positive), ratio_R.new_tensor(tau_negative))
    gate_R = torch.sigmoid(tau_R * (ratio_R - 1.0)) * 4.0 / tau_R
    return gate_R * advantages_R, torch.zeros_like(ratio_R, dtype=torch.bool)


def gmpo(ratio_R: Tensor, inputs: LossInputs, low: float, high: float) -> Objective:
    """GMPO (arXiv:2507.20673): A times the geometric mean of a reply's token ratios, each clipped to
    [exp(-low), exp(high)] on the side that A has already pushed it to; written at each token.

    With the `sequence_mean` aggregation this is the paper's objective exactly. Only tokens that count
    (`LossInputs.chosen_R`) enter the mean.
    """
    advantages_R, index_R, num_branches = inputs.advantages_R, inputs.branch_index_R, inputs.num_branches
    log_R = inputs.logprobs_R - inputs.old_logprobs_R.detach()
    bounded_R = torch.where(advantages_R > 0, log_R.clamp(max=high), log_R.clamp(min=-low))
    mean_B = branch_mean(bounded_R, index_R, num_branches)
    if inputs.chosen_R is not None:
        chosen_R = inputs.chosen_R.to(log_R.dtype)
        share_B = branch_mean(chosen_R, index_R, num_branches)
        mean_B = branch_mean(bounded_R * chosen_R, index_R, num_branches) / share_B.clamp(min=1e-9)
    cut_R = ((log_R > high) & (advantages_R > 0)) | ((log_R < -low) & (advantages_R < 0))
    return bounded_exp(mean_B)[index_R] * advantages_R, cut_R


def dppo_tv(ratio_R: Tensor, inputs: LossInputs, low: float, high: float) -> Objective:
    """DPPO with the binary total variation (arXiv:2602.04879): r A, without the tokens whose probability
    moved, in the direction that A pushes to, by more than `high` (up) or `low` (down)."""
    moved_R = inputs.logprobs_R.detach().exp() - inputs.old_logprobs_R.exp()
    return _without(ratio_R, inputs, moved_R > high, moved_R < -low)


def dppo_kl(ratio_R: Tensor, inputs: LossInputs, low: float, high: float) -> Objective:
    """DPPO with the binary KL (arXiv:2602.04879): as `dppo_tv`, where KL(old || new) of the two outcomes 'this
    token' and 'another one' exceeds the limit."""
    new_R, old_R = inputs.logprobs_R.detach(), inputs.old_logprobs_R
    q_R = old_R.exp()
    kl_R = q_R * (old_R - new_R) + (1.0 - q_R) * (_log_of_others(old_R) - _log_of_others(new_R))
    return _without(ratio_R, inputs, (kl_R > high) & (new_R > old_R), (kl_R > low) & (new_R < old_R))


def _log_of_others(logprobs_R: Tensor) -> Tensor:
    """log(1 - p), finite also where p rounds to 1."""
    return torch.log(-torch.expm1(logprobs_R.clamp(max=-1e-7)))


def _without(ratio_R: Tensor, inputs: LossInputs, too_high_R: Tensor, too_low_R: Tensor) -> Objective:
    advantages_R = inputs.advantages_R
    cut_R = (too_high_R & (advantages_R > 0)) | (too_low_R & (advantages_R < 0))
    objective_R = ratio_R * advantages_R
    return torch.where(cut_R, torch.zeros_like(objective_R), objective_R), cut_R


Surrogate = Callable[[Tensor, LossInputs], Objective]
"""(ratio_R, inputs) -> (objective_R, cut_R)."""
