"""Why a sampler's log-probs differ from the trainer's: each known mistake is made on purpose, and the one that explains
the difference is named.

R: tokens of a reply; V: vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from saccade.models.adapter import EncodedPrompt
from saccade.models.forward import branch_logprobs
from saccade.models.packing import Branch, pack
from saccade.models.policy import Policy
from saccade.types import Completion

Cause = Literal["none", "precision", "temperature", "pixels", "positions", "weights"]
"""none: within the bound; precision: small everywhere; temperature: log-probs before the temperature; pixels: another
picture, or its features; positions: other rotary positions; weights: nothing else explains it. Other ids of a prompt
are no cause of a difference: an engine refuses them, since each reply names its prompt's ids."""
BOUND, HALF_BOUND = 5e-3, 0.5
"""Nats, for the largest difference of a token: float32, and half precision."""
EXPLAINS = 0.25
"""A mistake is the cause when it leaves less than this share of the mean difference."""
PRECISION = {torch.float32: 1e-2, torch.float64: 1e-2, torch.bfloat16: 0.1}
"""Mean difference, in nats, that round-off of this dtype can make."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a sampler's log-probs are from the trainer's, over tokens. d = trainer's - sampler's, in nats."""

    tokens: int
    mean: float
    """Of |d|."""
    max: float
    k3: float
    """Mean of exp(d) - 1 - d, Schulman's estimate of KL(sampler, trainer)."""
    ess: float
    """Effective sample size (sum w)^2 / (n sum w^2) of the weights w = exp(d), in (0, 1]."""


def parity(trainer_R: Tensor, sampler_R: Tensor) -> Parity:
    """The distance over all tokens that have a log-prob of the sampler. ValueError when none has."""
    known_R = ~torch.isnan(sampler_R)
    d_R = (trainer_R - sampler_R)[known_R].double()
    if not len(d_R):
        raise ValueError("no token has a log-prob of the sampler")
    w_R = d_R.clamp(-20, 20).exp()
    return Parity(
        tokens=len(d_R),
        mean=float(d_R.abs().mean()),
        max=float(d_R.abs().max()),
        k3=float((w_R - 1 - d_R.clamp(-20, 20)).mean()),
        ess=float(w_R.sum() ** 2 / (len(w_R) * (w_R**2).sum())),
    )


def bound_of(policy: Policy) -> float:
    """The largest difference of a token, in nats, that kernels explain: it needs no cause."""
    return BOUND if policy.model.dtype in (torch.float32, torch.float64) else HALF_BOUND


@torch.no_grad()
def likely_causes(
    policy: Policy,
    prompt: EncodedPrompt,
    replies: Sequence[Completion],
    temperature: float,
    others: Sequence[EncodedPrompt] = (),
) -> list[tuple[Cause, float]]:
    """The likely cause of the difference of each reply's log-probs, and its mean difference in nats. `others` are
    prompts whose pictures a sampler may have taken for this one's. About seven forward passes of the replies."""
    sampler_R = [torch.tensor(reply.logprobs) for reply in replies]
    branches = [Branch(reply.token_ids, reply.spans) for reply in replies]

    def gaps(other: EncodedPrompt, at: float = temperature) -> list[Tensor]:
        """|d| of each reply's tokens that have a log-prob of the sampler."""
        found_R, _ = branch_logprobs(policy, pack([(other, branches)]), temperature=at, path=path_of(policy))
        parts = found_R.float().cpu().split([len(one) for one in sampler_R])
        return [(a - b).abs()[torch.isfinite(b)] for a, b in zip(parts, sampler_R, strict=True)]

    base = gaps(prompt)
    tried: list[tuple[list[Tensor], Cause]] = [(gaps(o), cause) for cause, o in _mistakes(policy, prompt, others)]
    if temperature != 1.0:
        tried.append((gaps(prompt, 1.0), "temperature"))
    found = list[tuple[Cause, float]]()
    for i, gap_R in enumerate(base):
        mean = float(gap_R.mean()) if len(gap_R) else 0.0
        if not len(gap_R) or float(gap_R.max()) <= bound_of(policy):
            found.append(("none", mean))
            continue
        left_over: list[tuple[float, Cause]] = [(float(of[i].mean()), cause) for of, cause in tried]
        left, cause = min(left_over, default=(mean, "weights"))
        rest: Cause = "precision" if mean <= PRECISION.get(policy.model.dtype, 0.1) else "weights"
        found.append((cause if left < EXPLAINS * mean else rest, mean))
    return found


def path_of(policy: Policy) -> Literal["packed", "plain"]:
    """The path that uses a prompt's own positions, where the family has it."""
    return "packed" if policy.adapter.sharing != "none" else "plain"


def _mistakes(
    policy: Policy, prompt: EncodedPrompt, others: Sequence[EncodedPrompt]
) -> Iterator[tuple[Cause, EncodedPrompt]]:
    """The prompt as a sampler with one of the known mistakes would read it."""
    if not prompt.pixels:
        return
    floats = {name: value for name, value in prompt.pixels.items() if value.is_floating_point()}
    yield "pixels", replace(prompt, pixels=prompt.pixels | {name: torch.zeros_like(v) for name, v in floats.items()})
    yield "pixels", replace(prompt, pixels=prompt.pixels | {name: v.flip(0) for name, v in floats.items()})
    for other in others:
        if other.image_shas != prompt.image_shas and _fits(other, prompt):
            yield "pixels", replace(prompt, pixels=other.pixels)
    counting_P = torch.arange(len(prompt))
    if not bool((prompt.positions_3P == counting_P).all()):
        yield "positions", replace(prompt, positions_3P=counting_P.expand(3, -1), next_position=len(prompt))
        after = prompt.next_position + 1
        yield "positions", replace(prompt, next_position=after)


def _fits(other: EncodedPrompt, prompt: EncodedPrompt) -> bool:
    """Whether the pictures of one prompt have the sizes of those of the other."""
    if other.pixels.keys() != prompt.pixels.keys():
        return False
    pairs = [(other.pixels[name], value) for name, value in prompt.pixels.items()]
    return all(a.shape == b.shape and (b.is_floating_point() or torch.equal(a, b)) for a, b in pairs)
