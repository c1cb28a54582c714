"""The probe: one short reply about one image, scored by a server and by the trainer with the same weights.

The prompt and the picture are always the same, so that a server that kept an old prefix, old features of the picture or
an old head after an update gives old log-probs and is noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw

from saccade.models.chat_template import MARKER
from saccade.models.forward import branch_logprobs
from saccade.models.packing import Branch, pack
from saccade.models.policy import Policy
from saccade.rollout.prompts import Prompt

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


@torch.no_grad()
def trainer_logprobs(policy: Policy, prompt: Prompt, ids: Sequence[int]) -> list[float]:
    """The trainer's log-probs of these tokens after the prompt."""
    with policy.whole():
        found, _ = branch_logprobs(policy, pack([(prompt.encoded, [Branch(tuple(ids))])]), path="plain")
    return found.float().cpu().tolist()
