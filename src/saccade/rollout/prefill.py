"""Prefilling prompts: one pass of the model over several of them, which keeps each one's keys and values.

Shape letters: T tokens, P tokens of a prompt, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.models.adapter import EncodedPrompt
from saccade.models.attention import SharedAttention, no_mask
from saccade.models.packing import Branch, Layout, pack
from saccade.models.policy import Policy
from saccade.models.shared_prefix import fastest_kernel, shared_attention

PREFILL_TOKENS = 8192
"""Most prompt tokens in one pass, unless a single prompt is longer."""


@dataclass(eq=False)
class PromptKV:
    """A prefilled prompt: keys and values (1, K, P, D) by layer, and its last token's hidden state (hidden)."""

    next_position: int
    keys: list[Tensor]
    values: list[Tensor]
    hidden: Tensor


@dataclass(eq=False)
class ReplyKV:
    """Keys and values (1, K, T, D) by layer of the first T tokens of a reply."""

    keys: list[Tensor]
    values: list[Tensor]

    @property
    def length(self) -> int:
        return self.keys[0].shape[2]

    def write(self, stores: Sequence[Tensor], row: int) -> None:
        """Copy them into a row of (2, N, K, T', D) by layer."""
        for store, keys, values in zip(stores, self.keys, self.values, strict=True):
            store[0, row, :, : self.length], store[1, row, :, : self.length] = keys[0], values[0]


class _Recorder:
    """`SharedAttention` over several prompts (or a prompt and its replies) in one unpadded row that keeps the keys and
    values of each."""

    def __init__(self, inner: SharedAttention, lengths: Sequence[int]) -> None:
        self.inner, self.lengths = inner, list(lengths)
        self.kept: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in lengths]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        for (keys, values), k, v in zip(
            self.kept, key.split(self.lengths, 2), value.split(self.lengths, 2), strict=True
        ):
            keys.append(k.clone(memory_format=torch.contiguous_format))
            values.append(v.clone(memory_format=torch.contiguous_format))
        return self.inner.attend(layer, query, key, value, scale)


def prefill(policy: Policy, prompts: Sequence[EncodedPrompt], features: Sequence[Tensor]) -> Iterator[PromptKV]:
    """Keys and values of every prompt, in order; each pass takes as many prompts as `PREFILL_TOKENS` allows."""
    at = 0
    while at < len(prompts):
        end, tokens = at + 1, len(prompts[at])
        while end < len(prompts) and tokens + len(prompts[end]) <= PREFILL_TOKENS:
            tokens += len(prompts[end])
            end += 1
        yield from _prefill_batch(policy, prompts[at:end], features[at:end])
        at = end


def _prefill_batch(policy: Policy, prompts: Sequence[EncodedPrompt], features: Sequence[Tensor]) -> Iterator[PromptKV]:
    device, dtype = policy.device, policy.model.dtype
    lengths = tuple(len(prompt) for prompt in prompts)
    layout = Layout(lengths, ((),) * len(prompts))
    kernel = fastest_kernel(device, dtype, policy.head_size)
    recorder = _Recorder(shared_attention(layout, device, dtype, kernel), lengths)
    hidden_TD = run(
        policy,
        torch.cat([prompt.ids_P for prompt in prompts]).to(device),
        torch.cat([prompt.positions_3P for prompt in prompts], 1)[:, None].to(device),
        recorder,
        policy.adapter.as_mm_outputs(features),
    )
    end = 0
    for prompt, (keys, values) in zip(prompts, recorder.kept, strict=True):
        end += len(prompt)
        yield PromptKV(prompt.next_position, keys, values, hidden_TD[end - 1].clone())


def prefill_replies(
    policy: Policy, prompt: EncodedPrompt, features: Tensor, replies: Sequence[Sequence[int]]
) -> Iterator[ReplyKV]:
    """Keys and values of the tokens of several replies to a prompt, which is read once more for each pass."""
    device, dtype, rest = policy.device, policy.model.dtype, list(replies)
    kernel = fastest_kernel(device, dtype, policy.head_size)
    while rest:
        count = max(1, (PREFILL_TOKENS - len(prompt)) // max(map(len, rest)))
        packed = pack([(prompt, [Branch(reply) for reply in rest[:count]])])
        lengths = [len(prompt), *map(len, rest[:count])]
        recorder = _Recorder(shared_attention(packed.layout, device, dtype, kernel), lengths)
        outputs = policy.adapter.as_mm_outputs([features])
        run(policy, packed.ids_T.to(device), packed.positions_3T[:, None].to(device), recorder, outputs)
        for keys, values in recorder.kept[1:]:
            yield ReplyKV(keys, values)
        rest = rest[count:]


def run(
    policy: Policy,
    ids_T: Tensor,
    positions_31T: Tensor,
    attend: SharedAttention,
    outputs: dict[str, Any] | None = None,
) -> Tensor:
    """Hidden states (T, hidden) of one row with attention `attend`; `outputs` are the `mm_encoder_outputs`."""
    model = policy.model
    more = {} if outputs is None else {"mm_encoder_outputs": outputs}
    return model.model(
        input_ids=ids_T[None],
        position_ids=policy.adapter.position_ids(positions_31T),
        attention_mask=no_mask(policy.device, model.dtype),
        use_cache=False,
        shared_attention=attend,
        **more,
    ).last_hidden_state[0]
