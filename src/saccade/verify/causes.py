"""Why a sampler's log-probs differ from the trainer's: each known mistake is made on purpose, and the one that explains
the difference is named.

R: tokens of a reply; V: vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from saccade.models.adapter import EncodedPrompt
from saccade.models.forward import branch_logprobs
from saccade.models.packing import Branch, pack
from saccade.models.policy import Policy
from saccade.types import Completion

Cause = Literal["none", "precision", "temperature", "pixels", "positions", "ids", "weights"]
"""none: within the bound; precision: small everywhere; temperature: log-probs before the temperature; pixels: another
picture, or its features; positions: other rotary positions; ids: another prompt; weights: nothing else explains it."""
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


@torch.no_grad()
def likely_cause(
    policy: Policy, prompt: EncodedPrompt, reply: Completion, temperature: float, bound: float
) -> tuple[Cause, float]:
    """The likely cause of the difference of one reply's log-probs, and the mean difference in nats. A few forward
    passes; `bound` is the largest difference that needs no cause."""
    sampler_R = torch.tensor(reply.logprobs)
    known_R = ~torch.isnan(sampler_R)

    def distance(other: EncodedPrompt, at: float = temperature) -> float:
        branch = Branch(reply.token_ids, reply.spans)
        found_R, _ = branch_logprobs(policy, pack([(other, [branch])]), temperature=at, path=path_of(policy))
        return float((found_R.float().cpu() - sampler_R)[known_R].abs().mean())

    base = distance(prompt)
    if base <= bound:
        return "none", base
    tried: list[tuple[float, Cause]] = [(distance(other), cause) for cause, other in _mistakes(policy, prompt)]
    if temperature != 1.0:
        tried.append((distance(prompt, 1.0), "temperature"))
    left, cause = min(tried, default=(base, "weights"))
    if left < EXPLAINS * base:
        return cause, base
    return ("precision" if base <= PRECISION.get(policy.model.dtype, 0.1) else "weights"), base


def path_of(policy: Policy) -> Literal["packed", "plain"]:
    """The path that uses a prompt's own positions, where the family has it."""
    return "packed" if policy.adapter.sharing != "none" else "plain"


def _mistakes(policy: Policy, prompt: EncodedPrompt) -> Iterator[tuple[Cause, EncodedPrompt]]:
    """The prompt as a sampler with one of the known mistakes would read it."""
    if not prompt.pixels:
        return
    floats = {name: value for name, value in prompt.pixels.items() if value.is_floating_point()}
    yield "pixels", replace(prompt, pixels=prompt.pixels | {name: torch.zeros_like(v) for name, v in floats.items()})
    yield "pixels", replace(prompt, pixels=prompt.pixels | {name: v.flip(0) for name, v in floats.items()})
    counting_P = torch.arange(len(prompt))
    if not bool((prompt.positions_3P == counting_P).all()):
        yield "positions", replace(prompt, positions_3P=counting_P.expand(3, -1), next_position=len(prompt))
        after = prompt.next_position + 1
        yield "positions", replace(prompt, next_position=after)
