"""What a model is really given, counted by hooks: tokens, images, and what stood in for its attention.

A path is not believed because it was asked for: a packed pass reads each prompt once, a plain one once per completion,
and the number of tokens that reach the embedding says which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(slots=True)
class Seen:
    """Counts of what passed through a model."""

    trained_tokens: int = 0
    """Tokens embedded with gradients on, padding included."""
    rollout_tokens: int = 0
    """Tokens embedded with gradients off: prefills and decoding steps."""
    single_tokens: int = 0
    """Those of them that came one per row: the decoding steps of `generate`."""
    images: int = 0
    """Images through the vision tower; of SmolVLM, tiles."""
    training_forms: set[str] = field(default_factory=set)
    """What stood in for the layers' attention in passes with gradients."""
    rollout_forms: set[str] = field(default_factory=set)
    """The same of passes without gradients."""


@contextmanager
def watched(model: Any) -> Iterator[Seen]:
    """Counts what the `model`, a Qwen2-VL, Qwen2.5-VL or SmolVLM, is given inside of the block."""
    seen = Seen()

    def embedding(_: Any, inputs: tuple[Any, ...]) -> None:
        ids = inputs[0]
        if torch.is_grad_enabled():
            seen.trained_tokens += ids.numel()
        else:
            seen.rollout_tokens += ids.numel()
            seen.single_tokens += ids.numel() if ids.shape[-1] == 1 else 0

    def attention(_: Any, __: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stand_in = kwargs.get("shared_attention")
        forms = seen.training_forms if torch.is_grad_enabled() else seen.rollout_forms
        forms.add("own attention" if stand_in is None else type(stand_in).__name__.lstrip("_"))

    def tower(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        each = kwargs.get("grid_thw", args[1] if len(args) > 1 else kwargs.get("pixel_values"))
        if each is None:
            raise ValueError("the vision tower was called without grid_thw or pixel_values; its images are not counted")
        seen.images += len(each)

    visual = model.model.visual if hasattr(model.model, "visual") else model.model.vision_model
    hooks = [
        model.get_input_embeddings().register_forward_pre_hook(embedding),
        model.model.register_forward_pre_hook(attention, with_kwargs=True),
        visual.register_forward_pre_hook(tower, with_kwargs=True),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def training_path(seen: Seen, prompts: Sequence[int], replies: Sequence[Sequence[int]]) -> str:
    """packed, plain or mixed, by the tokens that the training pass read. `prompts` are the prompts' lengths, `replies`
    those of the replies to each. Padding may add to either count, never as much as repeated prompts."""
    once = sum(prompts) + sum(map(sum, replies))
    repeated = once + sum(P * (len(one) - 1) for P, one in zip(prompts, replies, strict=True))
    tokens = seen.trained_tokens
    if tokens < once:
        name = "partial"
    elif tokens >= repeated:
        name = "plain"
    else:
        name = "packed" if tokens < (once + repeated) / 2 else "mixed"
    forms = " + ".join(sorted(seen.training_forms))
    return f"{name} ({forms}; {tokens} tokens read, {once} distinct)"


def rollout_path(seen: Seen, prompts: Sequence[int], group_size: int, row_steps: int) -> str:
    """How often each prompt was prefilled: all tokens read without gradients, less one for each of the `row_steps`
    (rows x decoding steps), over those of the prompts."""
    times = (seen.rollout_tokens - row_steps) / sum(prompts)
    how = "prompts prefilled once" if times < 1 + 0.5 * (group_size - 1) else "prompts prefilled per completion"
    forms = " + ".join(sorted(seen.rollout_forms))
    return f"{how} ({forms}; {times:.2f}x their tokens), {row_steps} row-steps"
