"""Decoding through the family's own cache: for layers with sliding windows, a state, or special masks.

One prompt at a time: it is prefilled once, its cache is repeated for its replies, and finished replies are removed. All
rows have the same number of tokens, so there is no padding. The family's own attention is used. Shape letters: N rows,
P prompt tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from saccade.models.adapter import EncodedPrompt
from saccade.models.attention import with_cache
from saccade.models.policy import Policy


class Cached:
    """The rows of one prompt; implements the same protocol as `Slots`."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._prompt: EncodedPrompt | None = None
        self._read = DynamicCache()
        """The cache after the prompt, one row; kept unchanged for replies that are added later."""
        self._cache = DynamicCache()
        self._hidden = torch.empty(0)
        self._rows = 0

    def prefill(self, places: Sequence[int], prompts: Sequence[EncodedPrompt], features: Sequence[Tensor]) -> None:
        """Prefill one prompt."""
        (prompt,), model, device = prompts, self.policy.model, self.policy.device
        ids_1P = prompt.ids_P[None]
        extra = self.policy.adapter.plain_inputs(prompt, ids_1P)
        outputs = self.policy.adapter.as_mm_outputs(features)
        cache = DynamicCache(config=model.config.get_text_config())
        self._hidden = model.model(
            input_ids=ids_1P.to(device),
            position_ids=self.policy.adapter.position_ids(prompt.positions_3P[:, None]).to(device),
            use_cache=True,
            **with_cache(cache),
            **({} if outputs is None else {"mm_encoder_outputs": outputs}),
            **{name: value.to(device) for name, value in extra.items() if name not in prompt.pixels},
        ).last_hidden_state[0, -1]
        self._prompt, self._read = prompt, cache

    def hidden(self, place: int) -> Tensor:
        """The prompt's last hidden state (hidden), from which the first token is sampled."""
        return self._hidden

    def drop_prompt(self, place: int) -> None:
        """Release the prompt's memory."""
        self._prompt, self._read, self._cache = None, DynamicCache(), DynamicCache()

    def add_rows(self, places: Sequence[int]) -> None:
        """Add rows of the last prefilled prompt; there must be no others."""
        self._cache = copy.deepcopy(self._read)
        self._keep([0] * len(places))

    def restore_rows(
        self, place: int, prompt: EncodedPrompt, features: Tensor, replies: Sequence[Sequence[int]]
    ) -> None:
        """Add rows of the last prefilled prompt with equally many tokens each, step by step: a layer with a state may
        not take several tokens at once; there must be no other rows."""
        self.add_rows([place] * len(replies))
        for length in range(len(replies[0])):
            self.step([reply[length] for reply in replies], [length])

    def remove_rows(self, gone: Sequence[int]) -> list[int]:
        """Remove rows (ascending). Returns the remaining rows, in order."""
        leaving = set(gone)
        order = [row for row in range(self._rows) if row not in leaving]
        self._keep(order)
        return order

    def memory(self, lengths: Sequence[int], new_prompts: Sequence[int]) -> int:
        """Bytes of all keys, values and states with rows of these lengths in tokens. 0 before the first prompt, whose
        cache tells what a token takes."""
        if self._prompt is None or not lengths:
            return 0
        one = _bytes_of(self._read)
        token = -(-one // len(self._prompt))  # layers with a window or a state need less
        own = len(lengths) * (one + max(lengths) * token)
        return one + own + own // max(1, len(self._read.layers))

    def compact(self) -> None:
        """Removed rows keep no memory."""

    def padded_rows(self, rows: int) -> int:
        """Number of rows that a step computes for this many rows."""
        return rows

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Run one token per row, at index `lengths[i]` of its reply; hidden states (N, hidden)."""
        assert self._prompt is not None
        device, N, length = self.policy.device, len(tokens), lengths[0]
        positions_3N1 = torch.full((3, N, 1), self._prompt.next_position + length)
        return self.policy.model.model(
            input_ids=torch.tensor(tokens)[:, None].to(device),
            position_ids=self.policy.adapter.position_ids(positions_3N1).to(device),
            attention_mask=torch.ones(N, len(self._prompt) + length + 1, dtype=torch.long, device=device),
            use_cache=True,
            **with_cache(self._cache),
        ).last_hidden_state[:, -1]

    def _keep(self, rows: list[int]) -> None:
        """Restrict the cache to these rows; every layer kind supports this indexing."""
        index: Any = torch.tensor(rows, dtype=torch.long, device=self.policy.device)  # declared a LongTensor
        if rows:
            self._cache.reorder_cache(index)
        self._rows = len(rows)


def _bytes_of(cache: Any) -> int:
    """Bytes of the tensors of a cache."""
    held: list[Any] = [value for layer in cache.layers for value in vars(layer).values()]
    tensors = [x for one in held for x in (one.values() if isinstance(one, dict) else [one])]
    return sum(x.nbytes for x in tensors if isinstance(x, Tensor))
