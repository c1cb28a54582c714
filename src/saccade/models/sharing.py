"""Whether siblings share their prompt in training: estimated, checked once on the first real batch, and logged.

The packed path is exact for every family that the tests cover, but a new checkpoint, a new version of transformers or a
low-precision dtype may differ. `auto` therefore compares a slice of the first batch on both paths. If they disagree it
tries plain sdpa instead of the flash kernels, and then keeps the plain path.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, nn

from saccade.models.adapter import EncodedPrompt
from saccade.models.config import SharedPrefix
from saccade.models.forward import Path, SharingMode, branch_logprobs, default_sharing
from saccade.models.fused import original_layers
from saccade.models.packing import Branch, Packed, pack
from saccade.models.policy import Policy
from saccade.models.quantize import in_float32
from saccade.models.two_phase import check_no_checkpointing

log = logging.getLogger(__name__)

Groups = Sequence[tuple[EncodedPrompt, Sequence[Branch]]]

MIN_TOKEN_SAVINGS = {"merged": 1.0, "split": 1.05, "masks": 1.2, "two_phase": 1.2}
"""Smallest ratio of plain to packed tokens at which a sharing mode is used. Merged flash kernels cost nothing extra;
dense masks grow with the square of the row, and two-phase sharing copies keys."""
LIMITS = {torch.float64: 1e-5, torch.float32: 1e-3}
"""Largest difference of a log-prob (nats) and relative difference of the gradient. Round-off on trained weights reaches
1e-4 in float32, and 1e-7 for the gradient in float64 because transformers' norms compute in float32. A wrong mask or
position causes 1e-2 and more."""
HALF_FACTOR, HALF_FLOOR = 1.5, 5e-3
"""In half precision, allowed error of the packed path: factor x error of the plain path + floor, both against float32.
"""
HALF_GRADIENT = 0.25
"""Largest relative difference between the gradients of the two paths in half precision. Round-off causes 0.01 to 0.03
in small models; a wrong backward pass, which log-probs do not reveal, 0.37 and more."""
SLICE_GROUPS, SLICE_BRANCHES, SLICE_TOKENS = 2, 3, 48
"""Size of the slice of the first batch that is compared."""
GRADIENT_ELEMENTS = 20_000_000
"""Most parameter elements whose gradients are compared; they are spread over the depth of the model."""


@dataclass(frozen=True, slots=True)
class SharingChoice:
    """How a run computes its log-probs, and why."""

    path: Path
    sharing: SharingMode | None
    token_savings: float
    """Plain tokens / packed tokens of the batch that was checked."""
    reason: str

    def __str__(self) -> str:
        if self.path == "plain":
            return f"shared prefix: off, every reply repeats its prompt; {self.reason}"
        fewer = f"{self.token_savings:.1f}x fewer tokens than repeated prompts"
        return f"shared prefix: on ({self.sharing}), {fewer}; {self.reason}"


def choose_sharing(policy: Policy, groups: Groups, mode: SharedPrefix, required: bool = False) -> SharingChoice:
    """The path for a run whose first batch is `groups`. ValueError for 'on' where the family cannot share, and when
    sharing is `required` but off, impossible or inexact."""
    choice = _choice(policy, groups, mode, required)
    if required and choice.path == "plain":
        raise ValueError(
            "several processes that train the vision side need shared prompts, but the shared prefix is off "
            f"({choice.reason}); set shared_prefix: on, freeze vision and projector, or use one process"
        )
    return choice


def _choice(policy: Policy, groups: Groups, mode: SharedPrefix, required: bool) -> SharingChoice:
    layout = pack(groups).layout
    token_savings = layout.plain_tokens / layout.length
    if mode == "off":
        return SharingChoice("plain", None, 1.0, "as configured")
    if mode == "on":
        return SharingChoice("packed", usable_sharing(policy), token_savings, "as configured, unchecked")
    try:
        sharing = usable_sharing(policy)
    except ValueError as error:
        return SharingChoice("plain", None, 1.0, str(error))
    failed = ""
    for form in (sharing, "split") if sharing == "merged" else (sharing,):
        if token_savings < MIN_TOKEN_SAVINGS[form] and not required:
            why = f"it would save {token_savings:.2f}x only, {form} needs {MIN_TOKEN_SAVINGS[form]}x"
            return SharingChoice("plain", None, 1.0, failed + why)
        held, measured = check(policy, groups, form)
        if held:
            why = f"{failed}packed equals plain on the first batch: {measured}"
            return SharingChoice("packed", form, token_savings, why)
        failed += f"FALLBACK: packed ({form}) differs from plain on the first batch: {measured}; "
    return SharingChoice("plain", None, 1.0, failed.removesuffix("; "))


def usable_sharing(policy: Policy) -> SharingMode:
    """The family's sharing mode. ValueError when it has none, or none that works with gradient checkpointing."""
    sharing = default_sharing(policy)
    if sharing == "two_phase":
        with torch.enable_grad(), policy.recomputing():
            check_no_checkpointing(policy.model)
    return sharing


def check(policy: Policy, groups: Groups, sharing: SharingMode) -> tuple[bool, str]:
    """Whether a slice of the batch gives the same log-probs and gradients on both paths, and the measurement."""
    packed = pack(_slice(groups))
    picked = _some_parameters(policy)
    try:
        ours = _measure(policy, packed, picked, "packed", sharing)
    except torch.cuda.OutOfMemoryError:
        raise  # says nothing about the packed path, and the plain one takes more memory
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError, IndexError) as error:
        return False, f"packed fails with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    with original_layers(policy.model):
        plain = _measure(policy, packed, picked, "plain", None)
    limit = LIMITS.get(policy.model.dtype)
    logprobs, gradient = _difference(ours, plain)
    if limit is not None:  # two comparisons, because max() may hide a NaN
        return logprobs <= limit and gradient <= limit, (
            f"log-probs to {logprobs:.1e}, gradients to {gradient:.1e} (limit {limit:.0e})"
        )
    held, measured = _half_logprobs(policy, packed, ours[0], plain[0])
    return held and gradient <= HALF_GRADIENT, f"{measured}; gradients to {gradient:.1e} (limit {HALF_GRADIENT})"


def _half_logprobs(policy: Policy, packed: Packed, ours_R: Tensor, plain_R: Tensor) -> tuple[bool, str]:
    """Whether the packed log-probs are about as close to float32 as the plain ones, and the measurement."""
    truth = _float32_truth(policy, packed)
    if truth is None:
        gap = (ours_R - plain_R).abs()
        held = float(gap.mean()) <= 0.03 and float(gap.max()) <= 0.5
        return held, f"mean log-prob difference {float(gap.mean()):.1e} (limit 3e-02; too little memory for float32)"
    far_ours, far_plain = (float((one - truth).abs().mean()) for one in (ours_R, plain_R))
    bound = HALF_FACTOR * far_plain + HALF_FLOOR
    return far_ours <= bound, (
        f"mean distance from float32 log-probs {far_ours:.1e}, plain {far_plain:.1e} (limit {bound:.1e})"
    )


def _slice(groups: Groups) -> Groups:
    """A few truncated branches from the groups with the most branches: a few tokens are enough to show a difference."""
    several = sorted(groups, key=lambda one: (-min(len(one[1]), 2), not one[0].pixels, len(one[0])))[:SLICE_GROUPS]

    def cut(branch: Branch) -> Branch:
        places = branch.loss_places()[:SLICE_TOKENS]
        return Branch(branch.ids[: places[-1] + 1], tuple((j, j + 1) for j in places))

    return [(prompt, [cut(branch) for branch in branches[:SLICE_BRANCHES]]) for prompt, branches in several]


def _some_parameters(policy: Policy) -> list[nn.Parameter]:
    """Trainable parameters spread over the model, small ones first, up to a fixed number of elements."""
    trainable = [p for _, p in policy.trainable()]
    picked, elements = set[int](), 0
    for i in sorted(range(len(trainable)), key=lambda i: (trainable[i].numel() > 1_000_000, i % 4, i)):
        if elements + trainable[i].numel() <= GRADIENT_ELEMENTS:
            picked.add(i)
            elements += trainable[i].numel()
    return [trainable[i] for i in sorted(picked)]


def _measure(
    policy: Policy, packed: Packed, parameters: list[nn.Parameter], path: Path, sharing: SharingMode | None
) -> tuple[Tensor, list[Tensor | None]]:
    """Log-probs (R) and the gradients of a fixed random sum of them."""
    with torch.enable_grad():
        logprobs_R, _ = branch_logprobs(policy, packed, path=path, sharing=sharing)
        weight_R = torch.linspace(-1.0, 1.0, len(logprobs_R), device=logprobs_R.device).sin()
        if not parameters or not logprobs_R.requires_grad:
            return logprobs_R.detach(), []
        grads = torch.autograd.grad((logprobs_R * weight_R).sum(), parameters, allow_unused=True)
    return logprobs_R.detach(), list(grads)


def _difference(
    ours: tuple[Tensor, list[Tensor | None]], plain: tuple[Tensor, list[Tensor | None]]
) -> tuple[float, float]:
    """Largest difference of a log-prob; relative L2 difference of the gradients, infinite when their sets differ."""
    logprobs = float((ours[0] - plain[0]).abs().max())
    off, whole = 0.0, 0.0
    for a, b in zip(ours[1], plain[1], strict=True):
        if a is not None and b is not None:
            off += float((a.double() - b.double()).square().sum())
            whole += float(b.double().square().sum())
        elif a is not None or b is not None:
            return logprobs, math.inf
    return logprobs, (off / whole) ** 0.5 if whole else off


def _float32_truth(policy: Policy, packed: Packed) -> Tensor | None:
    """Plain log-probs (R) of a float32 copy of the model; None when it does not fit into memory, or is sharded."""
    if policy.shards is not None:
        return None
    needed = 4.5 * sum(p.numel() for p in policy.model.parameters())
    device = policy.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > 0.8 * free:
        return None
    wide = Policy(in_float32(policy.model), policy.adapter, policy.processors)
    with torch.no_grad(), original_layers(wide.model):
        logprobs_R, _ = branch_logprobs(wide, packed, path="plain")
    return logprobs_R
