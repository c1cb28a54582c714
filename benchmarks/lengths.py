"""Replies of chosen, unequal lengths from any engine: the model itself counts down to its end-of-turn token.

A random model hardly ever ends a turn, and engines differ in how they could be told to. So the model is made to speak
numbers: a reply's first token says how many more follow, each next token is one less, and below the last comes the
end of the turn. Only the logits are replaced, by a hook on the head; all layers run as ever, and each engine ends rows
by its own rule for the stop token. The first token is drawn by each engine; with a model that has been told lengths,
only those are possible, in their proportions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

FIRST = 1000
"""Token id that says "the next token ends the turn"; FIRST + k: k numbers lie between. Ordinary words otherwise."""


def lognormal(count: int, mean: float, longest: int, seed: int = 0) -> list[int]:
    """Lengths (tokens with the stop token) with the given mean to half a token, the longest of exactly `longest`.

    ValueError when no seed near `seed` gives that.
    """
    sigma = 0.75
    for attempt in range(seed, seed + 5000):
        draw = random.Random(attempt)
        lengths = [round(draw.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)) for _ in range(count)]
        lengths = [min(max(one, 2), longest) for one in lengths]
        if max(lengths) == longest and abs(sum(lengths) / count - mean) < 0.5:
            return lengths
    raise ValueError(f"no draw of {count} lengths has mean {mean} and maximum {longest}; ask for others")


@contextmanager
def counting_down(model: Any, lengths: Sequence[int], stop_id: int, at_once: bool = False) -> Iterator[None]:
    """Inside, `model` speaks replies whose lengths (>= 2, stop token counted) are drawn from `lengths`.

    `at_once`: it says its length and stops, which shows what a seed draws without waiting for the replies.
    """
    vocabulary, longest = model.lm_head.weight.shape[0], max(lengths)
    if FIRST + longest > vocabulary or min(lengths) < 2:
        raise ValueError(f"got lengths from {min(lengths)} to {longest}; expected 2 to {vocabulary - FIRST}")
    first_V = torch.full((vocabulary,), -1e4)
    for length in set(lengths):
        first_V[FIRST + length - 2] = math.log(lengths.count(length))
    following = torch.full((vocabulary,), stop_id)  # token -> the one after it
    if not at_once:
        following[FIRST + 1 : FIRST + longest] = torch.arange(FIRST, FIRST + longest - 1)
    last: list[Tensor] = []  # the token ids of the pass that is running

    def embedding(_: Any, inputs: tuple[Any, ...]) -> None:
        last[:] = [inputs[0].flatten()]

    def head(_: Any, __: tuple[Any, ...], logits: Tensor) -> Tensor:
        rows = logits.view(-1, vocabulary)
        if len(rows) != len(last[0]):  # the end of a prefill: a row per prompt or reply, not per token read
            return first_V.to(logits).expand_as(rows).reshape(logits.shape).clone()
        spoken = torch.full_like(rows, -1e4)
        return spoken.scatter_(1, following[last[0]][:, None], 0.0).view(logits.shape)

    hooks = [
        model.get_input_embeddings().register_forward_pre_hook(embedding),
        model.lm_head.register_forward_hook(head),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
