"""What a model is really given: tokens, images and rows, counted by hooks. The path that a row names comes from here.

A path is not believed because it was asked for: a packed pass reads each prompt once, a plain one once per completion,
and the number of tokens that reach the embedding says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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

    hooks = [
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


def training_path(trained_tokens: int, prompts: Sequence[int], replies: Sequence[Sequence[int]]) -> str:
    """packed, plain or mixed, by the tokens that the training pass read. Lengths of the prompts, and of the replies to
    each. Padding between rows of unequal length may add to either count, never as much as a repeated prompt."""
    once = sum(prompts) + sum(sum(one) for one in replies)
    repeated = sum(P * len(one) for P, one in zip(prompts, replies, strict=True)) + sum(sum(one) for one in replies)
    padded = sum(len(one) * (P + max(one)) for P, one in zip(prompts, replies, strict=True))
    if trained_tokens < once:
        return f"partial ({trained_tokens} of {once} tokens read)"
    if trained_tokens >= repeated:
        return f"plain ({trained_tokens} tokens read, {once} distinct)" if trained_tokens <= 1.2 * padded else "unknown"
    halfway = (once + repeated) / 2
    name = "packed" if trained_tokens < halfway else "mixed"
    return f"{name} ({trained_tokens} tokens read, {once} distinct)"


def rollout_path(seen: Seen, prompts: Sequence[int], group_size: int) -> str:
    """How often each prompt was prefilled, and the rows that decoding ran."""
    times = seen.prefilled_tokens / sum(prompts)
    once = "prompts prefilled once" if times < 1 + 0.5 * (group_size - 1) else "prompts prefilled once per completion"
    return f"{once} ({times:.2f}x their tokens), {seen.row_steps} row-steps"


def observe(model: Any, work: Callable[[], object]) -> Seen:
    """One unmeasured run of `work`, watched."""
    with watched(model) as seen:
        work()
    return seen
