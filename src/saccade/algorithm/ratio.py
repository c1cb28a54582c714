"""Importance ratios of the policy to the one that sampled. R: packed tokens; B: completions (branches)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

MAX_LOG_RATIO = 20.0
"""exp(20) is 5e8: far outside of any clip, and still finite in float32, so one stray token cannot make the step NaN."""


def branch_lengths(branch_index_R: Tensor, num_branches: int) -> Tensor:
    """Tokens of each branch, [B], at least 1 (an empty branch then divides 0 by 1)."""
    return branch_index_R.bincount(minlength=num_branches).clamp(min=1)


def branch_sum(values_R: Tensor, branch_index_R: Tensor, num_branches: int) -> Tensor:
    """Sum over the tokens of each branch, [B]."""
    return values_R.new_zeros(num_branches).index_add(0, branch_index_R, values_R)


def branch_mean(values_R: Tensor, branch_index_R: Tensor, num_branches: int) -> Tensor:
    """Mean over the tokens of each branch, [B]; 0 for a branch without tokens."""
    return branch_sum(values_R, branch_index_R, num_branches) / branch_lengths(branch_index_R, num_branches)


def branch_max(values_R: Tensor, branch_index_R: Tensor, num_branches: int) -> Tensor:
    """Largest value of each branch, [B]; -inf for a branch without tokens."""
    lowest_B = values_R.new_full((num_branches,), float("-inf"))
    return lowest_B.scatter_reduce(0, branch_index_R, values_R, "amax")


def bounded_exp(log_R: Tensor) -> Tensor:
    """exp of a log ratio within +-MAX_LOG_RATIO."""
    return log_R.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def token(log_ratio_R: Tensor, branch_index_R: Tensor, num_branches: int) -> Tensor:
    """One ratio per token (PPO, GRPO), [R]."""
    return bounded_exp(log_ratio_R)


def sequence(log_ratio_R: Tensor, branch_index_R: Tensor, num_branches: int) -> Tensor:
    """GSPO (arXiv:2507.18071, eq. 7): s_i = exp(mean_t log r_t), written at each of its tokens, [R].

    With the `sequence_mean` aggregation this is the paper's objective exactly, value and gradient.
    """
    return bounded_exp(branch_mean(log_ratio_R, branch_index_R, num_branches))[branch_index_R]


def sequence_token(log_ratio_R: Tensor, branch_index_R: Tensor, num_branches: int) -> Tensor:
    """GSPO-token (arXiv:2507.18071): sg(s_i) p_t / sg(p_t). Its value is s_i, its gradient the token's own, so
    advantages may differ within a reply, [R]."""
    return sequence(log_ratio_R.detach(), branch_index_R, num_branches) * (log_ratio_R - log_ratio_R.detach()).exp()


Ratio = Callable[[Tensor, Tensor, int], Tensor]
"""(log_ratio_R, branch_index_R, num_branches) -> ratio_R."""

RATIOS: dict[str, Ratio] = {"token": token, "sequence": sequence, "sequence_token": sequence_token}
