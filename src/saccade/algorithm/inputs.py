"""What a micro-batch brings to the loss. R: packed tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossInputs:
    """One value per token; only `logprobs_R` and `entropy_R` may carry a gradient."""

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
    """Of the reference model; needed when a KL is charged in the loss."""
    sampler_logprobs_R: Tensor | None = None
    """As the engine gave them; needed by the off-policy sequence mask."""
    weight_R: Tensor | None = None
    """Of a correction, see `correction`; None is 1."""
    entropy_R: Tensor | None = None
    """Of the policy being trained, in nats; needed by an entropy bonus."""
    chosen_R: Tensor | None = None
    """True where the surrogate counts (top-entropy tokens); None is everywhere. The others stay in the denominators."""
