"""Decoding through the family's own cache: for layers with sliding windows, a state, or masks of their own.

One prompt at a time: it is read once, its cache repeated for its replies, and replies that end leave the cache. All
rows have equally many tokens, so nothing is padded. No attention of ours takes part. Shape letters: N rows, P prompt.
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
    """The rows of one prompt; satisfies the same protocol as `Slots`."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._prompt: EncodedPrompt | None = None
        self._read = DynamicCache()
        """After the prompt, one row; kept as it is, for replies that enter later."""
        self._cache = DynamicCache()
        self._hidden = torch.empty(0)
        self._rows = 0

    def prefill(self, places: Sequence[int], prompts: Sequence[EncodedPrompt], features: Sequence[Tensor]) -> None:
        """Read one prompt."""
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
        """The hidden state (hidden) from which the prompt's replies begin."""
        return self._hidden

    def drop_prompt(self, place: int) -> None:
        """Give the prompt's memory back."""
        self._prompt, self._read, self._cache = None, DynamicCache(), DynamicCache()

    def add_rows(self, places: Sequence[int]) -> None:
        """Rows of the prompt that was read last; there must be none."""
        self._cache = copy.deepcopy(self._read)
        self._keep([0] * len(places))

    def remove_rows(self, gone: Sequence[int]) -> list[int]:
        """Drop rows (ascending). Returns the rows that stay, in order."""
        leaving = set(gone)
        order = [row for row in range(self._rows) if row not in leaving]
        self._keep(order)
        return order

    def padded_rows(self, rows: int) -> int:
        """Rows that a step of this many runs."""
        return rows

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Run one token per row, the `lengths[i]`-th of its reply counted from 0; hidden states (N, hidden)."""
        assert self._prompt is not None
        device, N, age = self.policy.device, len(tokens), lengths[0]
        positions_3N1 = torch.full((3, N, 1), self._prompt.next_position + age)
        return self.policy.model.model(
            input_ids=torch.tensor(tokens)[:, None].to(device),
            position_ids=self.policy.adapter.position_ids(positions_3N1).to(device),
            attention_mask=torch.ones(N, len(self._prompt) + age + 1, dtype=torch.long, device=device),
            use_cache=True,
            **with_cache(self._cache),
        ).last_hidden_state[:, -1]

    def _keep(self, rows: list[int]) -> None:
        """The cache of these rows; every kind of layer knows how to be indexed so."""
        index: Any = torch.tensor(rows, dtype=torch.long, device=self.policy.device)  # declared a LongTensor
        if rows:
            self._cache.reorder_cache(index)
        self._rows = len(rows)
