"""Prompts of unlike lengths, with images and without, and replies of unlike lengths."""

from __future__ import annotations

import random

from pictures import noise_image

from saccade.models.adapter import EncodedPrompt
from saccade.models.policy import Policy

LONGEST = 48
"""Tokens of a reply."""
SIZES = ((56, 56), (112, 84), (84, 56), None, (56, 140), (56, 84))
"""Width and height of the image of each prompt; one is of text alone."""


def ragged_prompts(policy: Policy) -> list[EncodedPrompt]:
    encode = policy.adapter.encode
    return [
        encode("Tell me." if size is None else "<image>" + "word " * i, [] if size is None else [noise_image(*size, i)])
        for i, size in enumerate(SIZES)
    ]


def ragged_lengths(replies: int = 5) -> list[list[int]]:
    """Of `replies` replies to each prompt."""
    draw = random.Random(0)
    return [[min(LONGEST, max(1, round(draw.lognormvariate(2.3, 0.8)))) for _ in range(replies)] for _ in SIZES]
