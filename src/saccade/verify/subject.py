"""Shared state of a checkpoint's checks: the policy, a float32 copy of it, the fixtures, the bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from saccade.disk import size_words
from saccade.models.adapter import EncodedPrompt
from saccade.models.forward import SharingMode
from saccade.models.packing import Packed, pack
from saccade.models.policy import Policy, freeze
from saccade.models.quantize import in_float32
from saccade.models.shared_prefix import fastest_kernel
from saccade.models.sharing import LIMITS as IN_TRAINING
from saccade.verify.fixtures import BranchGroup, FixtureQuestion, prompts_of, questions, slice_of
from saccade.verify.report import Check

LIMITS = {**IN_TRAINING, torch.float64: 1e-8}
"""Largest difference of a log-prob (nats) and relative difference of a gradient between two ways to compute them. In
float64 the checks keep the whole model in float64, so the bound is tighter than in training."""
HALF_MARGIN = 0.5
"""Nats by which rounding may favor another token in half precision, where logits above 16 have steps of 0.125."""

FAILURES = (ValueError, TypeError, RuntimeError, KeyError, AttributeError, IndexError, OSError, ImportError)
"""Errors that a model may raise in a check that it does not support."""
WIDTH = 240
"""Most characters of an error that are shown."""
NO_EXACT = "the model is in half precision, and a float32 copy with gradients does not fit into memory"


@dataclass(eq=False)
class VerifySubject:
    """The checkpoint being verified."""

    policy: Policy
    exact: Policy | None
    """The policy itself, or a float32 copy if it is in half precision; None when that does not fit into memory."""
    groups: list[BranchGroup]
    questions: dict[str, FixtureQuestion]
    limit: float
    """Largest difference between two ways to compute the same log-prob (nats) or gradient (relative) of `exact`."""

    @property
    def prompts(self) -> list[EncodedPrompt]:
        return prompts_of(self.groups)

    @property
    def packed(self) -> Packed:
        return pack(self.groups)

    @property
    def is_half(self) -> bool:
        return self.exact is not self.policy


def subject_of(policy: Policy, limit: float | None = None) -> VerifySubject:
    """Prepares a policy for the checks. `limit` overrides the dtype's limit, which is meant for trained weights.
    ValueError when two gradients of a float32 or float64 policy do not fit into memory."""
    if policy.model.dtype in LIMITS:
        check_memory(policy)
    exact = policy if policy.model.dtype in LIMITS else float32_copy(policy)
    dtype = policy.model.dtype if exact is policy else torch.float32
    limit = LIMITS[dtype] if limit is None else limit
    return VerifySubject(policy, exact, slice_of(policy.adapter), questions(), limit)


def free_memory(device: torch.device) -> int:
    """Free bytes on the model's device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def check_memory(policy: Policy) -> None:
    """ValueError when the two gradients to compare do not fit into memory."""
    needed = 2.2 * sum(p.numel() * p.element_size() for p in policy.model.parameters())
    free = free_memory(policy.device)
    if needed > free:
        raise ValueError(
            f"comparing two gradients of this model needs {size_words(needed)} on {policy.device}, "
            f"{size_words(free)} are free; --dtype bfloat16 runs only the checks that fit"
        )


def float32_copy(policy: Policy) -> Policy | None:
    """The same weights in float32; None when they and two gradients of both do not fit into memory."""
    needed = 17 * sum(p.numel() for p in policy.model.parameters())
    if needed > free_memory(policy.device):
        return None
    return Policy(in_float32(policy.model), policy.adapter, policy.processors)


def sharing_modes(policy: Policy) -> tuple[SharingMode, ...]:
    """All sharing modes of this family on this device, the default first."""
    sharing = policy.adapter.sharing
    if sharing == "none":
        return ()
    if sharing != "attention":
        return (sharing,)
    merged = fastest_kernel(policy.device, policy.model.dtype, policy.head_size) == "merged"
    return ("merged", "split") if merged else ("split",)


def attempt(name: str, check: Callable[[], Sequence[Check]]) -> list[Check]:
    """The checks, or one that failed with the error. Too little memory is reported as not checked."""
    try:
        return list(check())
    except torch.cuda.OutOfMemoryError:
        return [Check(name, None, detail="too little memory on the GPU")]
    except FAILURES as error:
        return [Check(name, False, detail=f"raises {in_one_line(error)}")]


def in_one_line(error: BaseException) -> str:
    """Type and first sentence of an error."""
    text = " ".join(str(error).split()).partition(". ")[0]
    return f"{type(error).__name__}: {text[:WIDTH]}{'...' if len(text) > WIDTH else ''}"


@contextmanager
def training(policy: Policy, parts: tuple[str, ...]) -> Iterator[None]:
    """Within the context exactly these parts train; afterwards the previous state is restored."""
    before = [(p, p.requires_grad) for p in policy.model.parameters()]
    freeze(policy, parts)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
