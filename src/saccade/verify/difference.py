"""The difference between two ways to compute the same log-probs: the values, and the whole gradient.

Single parameters are unsuitable: the true gradient of a key's bias is 0, so its relative difference is round-off over
round-off. The whole gradient as one vector does not have this problem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from saccade.models.forward import Path, SharingMode, branch_logprobs
from saccade.models.fused import original_layers
from saccade.models.packing import Packed
from saccade.models.policy import Policy


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward and backward pass."""

    logprobs_R: Tensor
    gradients: dict[str, Tensor]
    """By name; parameters without a gradient are absent."""


class PassDifference(NamedTuple):
    """Difference between two passes over the same batch."""

    logprobs: float
    """Largest absolute difference of a log-prob, nats."""
    gradient: float
    """Norm of the gradients' difference / norm of the reference gradient; infinite when only one of them has a gradient
    for some parameter."""


class Float64(TorchFunctionMode):
    """Within the context, float64 stays float64 where a family's code casts to float32, as most do in norms and
    softmaxes. A float64 model then is float64 throughout, and two equivalent computations agree to 1e-8."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.nn.functional.grid_sample):
            return func(*_promoted(args), **kwargs)
        requested = torch.float32 if func is Tensor.float else kwargs.get("dtype")
        if func in (Tensor.to, Tensor.type) and torch.float32 in args:
            requested = torch.float32
        if requested is not torch.float32 or not (
            args and isinstance(args[0], Tensor) and args[0].dtype is torch.float64
        ):
            return func(*args, **kwargs)
        if func in (Tensor.float, Tensor.to, Tensor.type):
            return args[0]
        if func in (torch.softmax, torch.nn.functional.softmax):
            return func(*args, **{**kwargs, "dtype": torch.float64})
        return func(*args, **kwargs)


def _promoted(args: Sequence[Any]) -> Sequence[Any]:
    """The tensors in one common dtype: those that the code created in float32 are promoted."""
    tensors = all(isinstance(x, Tensor) for x in args)
    return [x.double() for x in args] if tensors and len({x.dtype for x in args}) > 1 else args


def throughout(dtype: torch.dtype) -> AbstractContextManager[object]:
    """In float64: see `Float64`. In other dtypes the model computes as it does in training."""
    return Float64() if dtype == torch.float64 else nullcontext()


def weights_of(packed: Packed, seed: int) -> Tensor:
    """Weights (R) of the log-probs in the loss: random, so that differences do not cancel, from a fixed seed."""
    return torch.randn(packed.num_tokens, generator=torch.Generator().manual_seed(seed))


def reference(policy: Policy, path: Path) -> AbstractContextManager[None]:
    """Plain rows are the reference: they use the family's own code, without fused layers."""
    return original_layers(policy.model) if path == "plain" else nullcontext()


def run(policy: Policy, packed: Packed, path: Path, sharing: SharingMode | None = None, seed: int = 0) -> Pass:
    """Forward and backward of a loss drawn with `seed`; the model's own `.grad` stay untouched."""
    named = policy.trainable()
    with torch.enable_grad(), reference(policy, path):
        logprobs_R, _ = branch_logprobs(policy, packed, path=path, sharing=sharing)
        loss = (logprobs_R * weights_of(packed, seed).to(logprobs_R)).sum()
        found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True) if named else ()
    gradients = {name: g for (name, _), g in zip(named, found, strict=True) if g is not None}
    return Pass(logprobs_R.detach(), gradients)


def logprobs(policy: Policy, packed: Packed, path: Path, sharing: SharingMode | None = None) -> Tensor:
    """Forward alone, (R)."""
    with torch.no_grad(), reference(policy, path):
        return branch_logprobs(policy, packed, path=path, sharing=sharing)[0]


def difference(found: Pass, reference: Pass) -> PassDifference:
    """How far `found` is from `reference`."""
    if found.gradients.keys() != reference.gradients.keys():
        return PassDifference(largest(found.logprobs_R, reference.logprobs_R), math.inf)
    off = whole = 0.0
    for name, expected in reference.gradients.items():
        off += _square(found.gradients[name].to(expected) - expected)
        whole += _square(expected)
    gradient = math.sqrt(off / whole) if whole else math.sqrt(off)
    gradient = gradient if math.isfinite(gradient) else math.inf
    return PassDifference(largest(found.logprobs_R, reference.logprobs_R), gradient)


def largest(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; infinite when one of them is not a number."""
    found = float((a.double() - b.double()).abs().max())
    return found if math.isfinite(found) else math.inf


def root_mean_square(a: Tensor, b: Tensor) -> float:
    """Of the differences; less a matter of luck than the largest one where round-off is coarse."""
    found = float((a.double() - b.double()).square().mean().sqrt())
    return found if math.isfinite(found) else math.inf


def _square(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2
