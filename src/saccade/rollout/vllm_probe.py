"""The probe: one short reply about one image, scored by a server and by the trainer with the same weights.

The prompt and the picture are always the same, so that a server that kept an old prefix, old features of the picture or
an old head after an update gives old log-probs and is noticed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw

from saccade.models.chat_template import MARKER
from saccade.models.forward import branch_logprobs
from saccade.models.packing import Branch, pack
from saccade.models.policy import Policy
from saccade.rollout.prompts import Prompt
from saccade.types import Completion

log = logging.getLogger(__name__)

TOKENS = 6
BOUNDS = {"float32": 5e-3, "float64": 5e-3, "bfloat16": 0.3}
"""Nats. Kernels of trainer and server differ, most in bfloat16; so do, ever more, old weights and new ones."""


def probe_prompt(policy: Policy) -> Prompt:
    """The question of the probe, with a picture where the model reads pictures."""
    picture = Image.new("RGB", (120, 90), (235, 235, 230))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((15, 20, 55, 70), fill=(200, 40, 40))
    pen.ellipse((65, 25, 105, 65), fill=(40, 80, 200))
    images = (picture,) if policy.adapter.image_ids else ()
    return Prompt(None, policy.adapter.encode(f"{MARKER * len(images)}What is in the picture?", images), images)


def probe_params() -> dict[str, Any]:
    """Greedy tokens without any rule about which may be sampled."""
    return {"n": 1, "temperature": 0.0, "max_tokens": TOKENS, "logprobs": 0, "ignore_eos": True}


def probe_bound(policy: Policy, given: float | None) -> float:
    """The largest difference that is not an error."""
    return given or BOUNDS[str(policy.model.dtype).removeprefix("torch.")]


def compare_probe(
    policy: Policy, prompt: Prompt, reply: Completion, known: dict[tuple[int, ...], list[float]], bound: float
) -> str | None:
    """What is wrong with a sampler's reply to the probe, None if its log-probs are the trainer's. `known` keeps those,
    for samplers that give the same tokens and for a time when the trainer's weights are newer."""
    if reply.token_ids not in known:
        if policy.version != reply.weights_version:
            log.warning("weights of version %d are not compared: the trainer's are newer", reply.weights_version)
            return None
        known[reply.token_ids] = trainer_logprobs(policy, prompt, reply.token_ids)
    expected = known[reply.token_ids]
    gaps = [abs(a - b) for a, b in zip(reply.logprobs, expected, strict=True)]
    if all(gap <= bound for gap in gaps):  # a missing log-prob is no number and is not
        return None
    shown = [[round(one, 3) for one in values] for values in (reply.logprobs, expected)]
    return (
        f"after the update to version {reply.weights_version} its log-probs differ from the trainer's by "
        f"{max(gaps):.3g} nats, expected at most {bound:g} (rollout.engine.probe_bound): got {shown[0]}, expected "
        f"{shown[1]}; it has old weights or caches, or another precision"
    )


@torch.no_grad()
def trainer_logprobs(policy: Policy, prompt: Prompt, ids: Sequence[int]) -> list[float]:
    """The trainer's log-probs of these tokens after the prompt."""
    with policy.whole():
        found, _ = branch_logprobs(policy, pack([(prompt.encoded, [Branch(tuple(ids))])]), path="plain")
    return found.float().cpu().tolist()
