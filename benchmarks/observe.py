"""What a model is really given: tokens, images and rows, counted by hooks. The path that a row names comes from here.

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
    prefilled_tokens: int = 0
    """Tokens embedded with gradients off, except the decoding steps' own."""
    row_steps: int = 0
    """Rows x decoding steps: forward passes of one new token per row."""
    images: int = 0
    """Images through the vision tower."""
    training_forms: set[str] = field(default_factory=set)
    """What stood in for the layers' attention in passes with gradients; `own` where nothing did."""
    rollout_forms: set[str] = field(default_factory=set)
    """The same of passes without gradients."""


@contextmanager
def watched(model: Any) -> Iterator[Seen]:
    """Counts what the Qwen2-VL or Qwen2.5-VL `model` is given inside of the block."""
    seen = Seen()
    pending = 0  # tokens of a pass without gradients, until the head says how many rows it had

    def embedding(_: Any, inputs: tuple[Any, ...]) -> None:
        nonlocal pending
        if torch.is_grad_enabled():
            seen.trained_tokens += inputs[0].numel()
        else:
            seen.prefilled_tokens += pending
            pending = inputs[0].numel()

    def head(_: Any, inputs: tuple[Any, ...]) -> None:
        nonlocal pending
        if torch.is_grad_enabled():
            return
        if inputs[0].shape[:-1].numel() == pending:
            seen.row_steps += pending
        else:
            seen.prefilled_tokens += pending
        pending = 0

    def tower(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        grid = kwargs.get("grid_thw", args[1] if len(args) > 1 else None)
        if grid is None:
            raise ValueError("the vision tower was called without grid_thw; its images cannot be counted")
        seen.images += len(grid)

    def attention(_: Any, __: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stand_in = kwargs.get("shared_attention")
        forms = seen.training_forms if torch.is_grad_enabled() else seen.rollout_forms
        forms.add("own attention" if stand_in is None else type(stand_in).__name__)

    hooks = [
        model.model.register_forward_pre_hook(attention, with_kwargs=True),
        model.get_input_embeddings().register_forward_pre_hook(embedding),
        model.lm_head.register_forward_pre_hook(head),
        model.model.visual.register_forward_pre_hook(tower, with_kwargs=True),
    ]
    try:
        yield seen
    finally:
        seen.prefilled_tokens += pending
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


def rollout_path(seen: Seen, prompts: Sequence[int], group_size: int) -> str:
    """How often each prompt was prefilled, and the rows that decoding ran."""
    times = seen.prefilled_tokens / sum(prompts)
    how = "prompts prefilled once" if times < 1 + 0.5 * (group_size - 1) else "prompts prefilled per completion"
    forms = " + ".join(sorted(seen.rollout_forms))
    return f"{how} ({forms}; {times:.2f}x their tokens), {seen.row_steps} row-steps"
