"""Log-probabilities and entropies of chosen tokens without materializing the full logits.

Shape letters: R chosen tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 512
"""Rows of logits held at a time: memory is CHUNK x V floats, whatever R is."""

PIECE = 16_384
"""Rows of the head's gradient that are computed at a time in half precision."""


@dataclass(frozen=True, eq=False)
class Head:
    """From hidden states to logits: softcap * tanh((hidden W^T + bias) / softcap), with optional bias and softcap."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None

    def logits(self, hidden_RD: Tensor) -> Tensor:
        logits_RV = F.linear(hidden_RD, self.weight_VD, self.bias_V)
        return logits_RV if self.softcap is None else torch.tanh(logits_RV / self.softcap) * self.softcap


def head_of(model: Any) -> Head:
    """The language-model head. ValueError for a head with more than a matrix, a bias and a softcap."""
    text = model.config.get_text_config()
    scale = getattr(text, "logits_scaling", None) or getattr(text, "logit_scale", None)
    if scale not in (None, 1, 1.0):
        raise ValueError(f"the model scales its logits by {scale}; expected a head with only matrix, bias and softcap")
    return Head(model.lm_head.weight, model.lm_head.bias, getattr(text, "final_logit_softcapping", None))


Entropy = bool | Literal["gradient"]
"""Whether entropies are computed, and with what gradient: False, True (values only) or 'gradient'."""


class _Options(NamedTuple):
    softcap: float | None
    temperature: float
    entropy: Entropy


class _ChunkedLogprobs(torch.autograd.Function):
    """log p(target | hidden) with the head recomputed per chunk in backward; saves one float per token."""

    @staticmethod
    def forward(
        ctx: Any, hidden_RD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_R: Tensor, options: _Options
    ) -> tuple[Tensor, Tensor]:
        R = hidden_RD.shape[0]
        softcap, temperature, entropy = options
        head = Head(weight_VD, bias_V, softcap)
        logprobs_R = hidden_RD.new_empty(R, dtype=torch.float32 if hidden_RD.dtype != torch.float64 else torch.float64)
        lse_R, entropy_R = torch.empty_like(logprobs_R), torch.empty_like(logprobs_R)
        for start in range(0, R, CHUNK):
            rows = slice(start, start + CHUNK)
            logits = head.logits(hidden_RD[rows]).to(logprobs_R.dtype).div_(temperature)
            lse = torch.logsumexp(logits, -1)
            lse_R[rows] = lse
            logprobs_R[rows] = logits.gather(-1, targets_R[rows, None])[:, 0] - lse
            if entropy:
                entropy_R[rows] = lse - (torch.exp(logits - lse[:, None]) * logits).sum(-1)
        ctx.save_for_backward(hidden_RD, weight_VD, bias_V, targets_R, lse_R, entropy_R)
        ctx.temperature, ctx.softcap, ctx.entropy = temperature, softcap, entropy
        if entropy != "gradient":
            ctx.mark_non_differentiable(entropy_R)
        return logprobs_R, entropy_R

    @staticmethod
    def backward(ctx: Any, grad_R: Tensor, grad_entropy_R: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # torch declares (ctx, *grads)
        hidden_RD, weight_VD, bias_V, targets_R, lse_R, entropy_R = ctx.saved_tensors
        head = Head(weight_VD, bias_V, ctx.softcap)
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden_RD) if need_hidden else None
        grad_weight = torch.zeros_like(weight_VD, dtype=grad_R.dtype) if need_weight else None
        grad_bias = torch.zeros_like(bias_V, dtype=grad_R.dtype) if need_bias else None
        for start in range(0, hidden_RD.shape[0], CHUNK):
            rows = slice(start, start + CHUNK)
            logits = head.logits(hidden_RD[rows]).to(grad_R.dtype)
            # d tanh(x) = 1 - tanh(x)^2, taken before the logits are overwritten
            slope = None if ctx.softcap is None else 1 - (logits / ctx.softcap).square()
            logs = logits.div_(ctx.temperature).sub_(lse_R[rows, None])
            of_entropy = None
            if ctx.entropy == "gradient":  # d H / d logits = -p (log p + H)
                of_entropy = (logs + entropy_R[rows, None]) * logs.exp() * -grad_entropy_R[rows, None]
            # d log p / d logits = onehot - softmax
            delta = logs.exp_().mul_(-grad_R[rows, None])
            delta.scatter_add_(1, targets_R[rows, None], grad_R[rows, None])
            if of_entropy is not None:
                delta += of_entropy
            delta.div_(ctx.temperature)
            if slope is not None:
                delta.mul_(slope)
            if grad_hidden is not None:
                grad_hidden[rows] = delta.to(weight_VD.dtype) @ weight_VD
            if grad_weight is not None:
                _add_products(grad_weight, delta, hidden_RD[rows])
            if grad_bias is not None:
                grad_bias += delta.sum(0)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight_VD.dtype),
            None if grad_bias is None else grad_bias.to(weight_VD.dtype),
            None,
            None,
        )


def _add_products(sum_VD: Tensor, delta_RV: Tensor, hidden_RD: Tensor) -> None:
    """Add delta^T hidden to a float32 sum; a half-precision model multiplies in its own precision, as autograd would
    (in float32 this product is as expensive as a sixth of a 7B update), in pieces that need little memory."""
    if hidden_RD.dtype == sum_VD.dtype:
        sum_VD.addmm_(delta_RV.t(), hidden_RD)
        return
    on_gpu = hidden_RD.device.type == "cuda"  # where a product of halves can be had in float32
    for start in range(0, sum_VD.shape[0], PIECE):
        delta_VR = delta_RV[:, start : start + PIECE].to(hidden_RD.dtype).t()
        product = torch.mm(delta_VR, hidden_RD, out_dtype=sum_VD.dtype) if on_gpu else delta_VR @ hidden_RD
        sum_VD[start : start + PIECE] += product


def token_logprobs(
    hidden_RD: Tensor, head: Head, targets_R: Tensor, temperature: float = 1.0, entropy: Entropy = False
) -> tuple[Tensor, Tensor | None]:
    """log p(targets_R) under softmax(head(hidden) / temperature) and, if requested, the entropy (nats).

    The softmax is computed in float32 (float64 for a float64 model), independent of the model's dtype.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; log-probs need a positive one (greedy decoding uses 1)")
    logprobs_R, entropy_R = _ChunkedLogprobs.apply(
        hidden_RD, head.weight_VD, head.bias_V, targets_R, _Options(head.softcap, temperature, entropy)
    )
    return logprobs_R, entropy_R if entropy else None
