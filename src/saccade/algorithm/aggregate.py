"""From losses per token to the step's loss. The denominators are counted over the whole step before any backward pass,
so that the sum over micro-batches (and ranks) is the loss of the whole. R: packed tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from saccade.algorithm.ratio import branch_lengths


@dataclass(frozen=True, slots=True)
class Denominators:
    """What one optimizer step divides by, over all of its micro-batches and ranks; masked rollouts are not counted."""

    tokens: int
    """Reply tokens of every rollout that counts, those including those with advantage 0."""
    sequences: int
    """Rollouts that count."""
    max_length: int = 0
    """The constant of the `constant` aggregation: the stage's cap on new tokens."""

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.sequences < 1:
            raise ValueError(f"a step needs at least one token and one rollout; got {self.tokens} and {self.sequences}")


def token_mean(values_R: Tensor, branch_index_R: Tensor, num_branches: int, denominators: Denominators) -> Tensor:
    """Sum over all tokens / number of tokens of the step (DAPO, arXiv:2503.14476, eq. 8)."""
    return values_R.sum() / denominators.tokens


def sequence_mean(values_R: Tensor, branch_index_R: Tensor, num_branches: int, denominators: Denominators) -> Tensor:
    """Mean over the tokens of each reply, then over replies (GRPO, arXiv:2402.03300, eq. 3)."""
    lengths_B = branch_lengths(branch_index_R, num_branches)
    return (values_R / lengths_B[branch_index_R]).sum() / denominators.sequences


def sequence_sum(values_R: Tensor, branch_index_R: Tensor, num_branches: int, denominators: Denominators) -> Tensor:
    """Sum over all tokens / number of replies (RLOO, arXiv:2402.14740: a reply is one action)."""
    return values_R.sum() / denominators.sequences


def constant(values_R: Tensor, branch_index_R: Tensor, num_branches: int, denominators: Denominators) -> Tensor:
    """Sum over all tokens / (replies x the cap on new tokens): no reply's length enters (Dr.GRPO, arXiv:2503.20783)."""
    if denominators.max_length < 1:
        raise ValueError(f"aggregation 'constant': got max_length {denominators.max_length}; expected max_new_tokens")
    return values_R.sum() / (denominators.sequences * denominators.max_length)


Aggregate = Callable[[Tensor, Tensor, int, Denominators], Tensor]

AGGREGATES: dict[str, Aggregate] = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "sequence_sum": sequence_sum,
    "constant": constant,
}
