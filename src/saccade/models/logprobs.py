"""Log-probabilities and entropies of chosen tokens without ever holding the full logits.

Shape letters: R chosen tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 512
"""Rows of logits held at a time: memory is CHUNK x V floats, whatever R is."""


class _ChunkedLogprobs(torch.autograd.Function):
    """log p(target | hidden) with the head recomputed per chunk in backward; saves one float per token."""

    @staticmethod
    def forward(  # type: ignore[override]  # torch declares (ctx, *args)
        ctx: Any, hidden_RD: Tensor, weight_VD: Tensor, targets_R: Tensor, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        R = hidden_RD.shape[0]
        logprobs_R = hidden_RD.new_empty(R, dtype=torch.float32 if hidden_RD.dtype != torch.float64 else torch.float64)
        lse_R, entropy_R = torch.empty_like(logprobs_R), torch.empty_like(logprobs_R)
        for start in range(0, R, CHUNK):
            rows = slice(start, start + CHUNK)
            logits = F.linear(hidden_RD[rows], weight_VD).to(logprobs_R.dtype).div_(temperature)
            lse = torch.logsumexp(logits, -1)
            lse_R[rows] = lse
            logprobs_R[rows] = logits.gather(-1, targets_R[rows, None])[:, 0] - lse
            if entropy:
                entropy_R[rows] = lse - (torch.exp(logits - lse[:, None]) * logits).sum(-1)
        ctx.save_for_backward(hidden_RD, weight_VD, targets_R, lse_R)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_R)
        return logprobs_R, entropy_R

    @staticmethod
    def backward(ctx: Any, grad_R: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # as above
        hidden_RD, weight_VD, targets_R, lse_R = ctx.saved_tensors
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden_RD) if need_hidden else None
        grad_weight = torch.zeros_like(weight_VD, dtype=grad_R.dtype) if need_weight else None
        for start in range(0, hidden_RD.shape[0], CHUNK):
            rows = slice(start, start + CHUNK)
            logits = F.linear(hidden_RD[rows], weight_VD).to(grad_R.dtype).div_(ctx.temperature)
            # d log p / d logits = onehot - softmax
            delta = logits.sub_(lse_R[rows, None]).exp_().mul_(-grad_R[rows, None])
            delta.scatter_add_(1, targets_R[rows, None], grad_R[rows, None])
            delta.div_(ctx.temperature)
            if grad_hidden is not None:
                grad_hidden[rows] = delta.to(weight_VD.dtype) @ weight_VD
            if grad_weight is not None:
                grad_weight.addmm_(delta.t(), hidden_RD[rows].to(grad_R.dtype))
        return grad_hidden, grad_weight.to(weight_VD.dtype) if grad_weight is not None else None, None, None, None


def token_logprobs(
    hidden_RD: Tensor, weight_VD: Tensor, targets_R: Tensor, temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """log p(targets_R) under softmax(hidden W^T / temperature) and, if asked, the entropy (nats, no gradient).

    Arithmetic of the softmax is float32 (float64 for a float64 model) whatever the model's dtype.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; log-probs need a positive one (greedy decoding uses 1)")
    logprobs_R, entropy_R = _ChunkedLogprobs.apply(hidden_RD, weight_VD, targets_R, temperature, entropy)
    return logprobs_R, entropy_R if entropy else None
