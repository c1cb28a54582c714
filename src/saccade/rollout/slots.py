"""Decoding with each prompt's keys and values stored once, for families with Saccade's attention (`models.attention`).

A prompt is prefilled once into a `PromptKV`; its replies store keys and values only of their own tokens. Rows that were
added together form a cohort: they have the same number of tokens, so no padding or mask is needed. In every layer, a
step's queries attend to their prompts (`prompt_attention`) and to their own tokens (all rows of a cohort in one call),
and the two results are merged with their log-sum-exps. The model keeps no cache itself.

Shape letters: N rows, n rows of a cohort, H query heads, K key/value heads, T own tokens, P prompt tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saccade.models.adapter import EncodedPrompt
from saccade.models.policy import Policy
from saccade.rollout.prefill import PromptKV, prefill, run
from saccade.rollout.prompt_attention import attention, concatenate, merge, prompt_attention_for

BLOCK = 32
"""Smallest number of tokens by which a cohort's memory grows."""


class _Cohort:
    """Keys and values of rows that were added together, (layers, 2, n, K, T, D), growing in blocks of tokens."""

    def __init__(self, rows: int, like: Sequence[Tensor]) -> None:
        self.rows = rows
        self.length = 0
        _, heads, _, size = like[0].shape
        self.store = like[0].new_empty(len(like), 2, rows, heads, 0, size)

    def make_room(self) -> None:
        """Make room for one more token per row; also frees the memory of removed rows."""
        if self.length < self.store.shape[4]:
            return
        layers, two, _, heads, _, size = self.store.shape
        capacity = self.length + max(BLOCK, self.length // 2)
        wide = self.store.new_empty(layers, two, self.rows, heads, capacity, size)
        wide[:, :, :, :, : self.length] = self.store[:, :, : self.rows, :, : self.length]
        self.store = wide

    def drop(self, gone: Sequence[int]) -> list[int]:
        """Remove rows; rows from the end move into their places. Returns the new order of old rows."""
        order = list(range(self.rows))
        self.rows -= len(gone)
        leaving = set(gone)
        holes = [row for row in gone if row < self.rows]
        movers = [row for row in range(self.rows, len(order)) if row not in leaving]
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
            self.store[:, :, hole, :, : self.length] = self.store[:, :, mover, :, : self.length]
        return order[: self.rows]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """query (H, n, D), key and value (K, n, D) of the newest token -> output (H, n, D), log-sum-exp (H, n)."""
        keys, values = self.store[layer, :, : self.rows]
        keys[:, :, self.length] = key.transpose(0, 1)
        values[:, :, self.length] = value.transpose(0, 1)
        end = self.length + 1
        per_key = query.shape[0] // key.shape[0]
        # the query heads of one key head are queries of one call: (n, K, H / K, D), a view
        folded = query.unflatten(0, (-1, per_key)).permute(2, 0, 1, 3)
        out, lse = attention(folded, keys[:, :, :end], values[:, :, :end], scale)
        return out.permute(1, 2, 0, 3).flatten(0, 1), lse.permute(1, 2, 0).flatten(0, 1)


class Slots:
    """The rows being decoded, in order: the rows of the first cohort, those of the second, and so on."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.prefixes: dict[int, PromptKV] = {}
        self.cohorts: list[_Cohort] = []
        self.owners: list[int] = []
        """Index of each row's prompt in the call."""
        self._prompts = prompt_attention_for(policy.device)

    # Adding and removing rows

    def prefill(self, places: Sequence[int], prompts: Sequence[EncodedPrompt], features: Sequence[Tensor]) -> None:
        """Prefill prompts, several in one pass."""
        self.prefixes.update(zip(places, prefill(self.policy, prompts, features), strict=True))

    def hidden(self, place: int) -> Tensor:
        """A prompt's last hidden state (hidden), from which the first token is sampled."""
        return self.prefixes[place].hidden

    def drop_prompt(self, place: int) -> None:
        """Release a prompt's memory."""
        del self.prefixes[place]

    def add_rows(self, places: Sequence[int]) -> None:
        """Append rows, given by the index of each one's prompt."""
        self.cohorts.append(_Cohort(len(places), self.prefixes[places[0]].keys))
        self.owners += places
        self._prompts.arrange(self.owners, self.prefixes)

    def remove_rows(self, gone: Sequence[int]) -> list[int]:
        """Remove rows (ascending). Returns the remaining rows in their new order."""
        order: list[int] = []
        start = 0
        for cohort in self.cohorts:
            end = start + cohort.rows
            order += [start + row for row in cohort.drop([row - start for row in gone if start <= row < end])]
            start = end
        self.cohorts = [cohort for cohort in self.cohorts if cohort.rows]
        self.owners = [self.owners[row] for row in order]
        self._prompts.arrange(self.owners, self.prefixes)
        return order

    # A step

    def padded_rows(self, rows: int) -> int:
        """Number of rows that a step computes for this many rows."""
        return rows

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Run one token per row, at index `lengths[i]` of its reply; hidden states (N, hidden)."""
        for cohort in self.cohorts:
            cohort.make_room()
        starts = (self.prefixes[owner].next_position for owner in self.owners)
        positions = [start + length for start, length in zip(starts, lengths, strict=True)]
        ids_2N = torch.tensor([tokens, positions]).to(self.policy.device)
        hidden_ND = run(self.policy, ids_2N[0], ids_2N[1].expand(3, 1, -1), self)
        for cohort in self.cohorts:
            cohort.length += 1
        return hidden_ND

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """See `SharedAttention`: query (1, H, N, D), key and value (1, K, N, D)."""
        scale = float(query.shape[-1] ** -0.5 if scale is None else scale)
        parts, start = [], 0
        for cohort in self.cohorts:
            rows = slice(start, start + cohort.rows)
            parts.append(cohort.attend(layer, query[0, :, rows], key[0, :, rows], value[0, :, rows], scale))
            start = rows.stop
        own, own_lse = concatenate(parts, 1)
        cross, cross_lse = self._prompts.attend(layer, query, scale)
        return merge((own[None], own_lse[None]), (cross, cross_lse), query.dtype)
