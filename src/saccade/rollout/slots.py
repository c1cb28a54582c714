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
from saccade.rollout.kv_memory import token_bytes
from saccade.rollout.prefill import PromptKV, prefill, prefill_replies, run
from saccade.rollout.prompt_attention import attention, concatenate, merge, prompt_attention_for

BLOCK = 32
"""Smallest number of tokens by which a cohort's memory grows."""


def cohort_capacity(tokens: int) -> int:
    """Capacity in tokens of a row of a cohort with this many: it grows by a block, later by half."""
    capacity = 0
    while capacity < tokens:
        capacity += max(BLOCK, capacity // 2)
    return capacity


class _Cohort:
    """Keys and values of rows that were added together, (2, n, K, T, D) by layer, growing in pieces of the reply."""

    def __init__(self, rows: int, like: Sequence[Tensor], length: int = 0) -> None:
        self.rows = rows
        self.length = length
        self.store = [one.new_empty(2, rows, one.shape[1], cohort_capacity(length), one.shape[3]) for one in like]

    def make_room(self) -> None:
        """Make room for one more token per row; also frees the memory of removed rows."""
        if any(own.shape[3] <= self.length for own in self.store):
            self.resize(cohort_capacity(self.length + 1))

    def resize(self, capacity: int) -> None:
        """Memory for the present rows alone, layer by layer, so that only one layer is in memory twice."""
        for layer, own in enumerate(self.store):
            wide = own.new_empty(2, self.rows, own.shape[2], capacity, own.shape[4])
            wide[:, :, :, : self.length] = own[:, : self.rows, :, : self.length]
            self.store[layer] = wide

    def memory(self, length: int) -> int:
        """Bytes in all, when its rows have this many tokens."""
        capacity, (own, *_) = cohort_capacity(length), self.store
        if capacity <= own.shape[3]:
            return sum(one.nbytes for one in self.store)
        return sum(one[:, : self.rows, :, :1].nbytes for one in self.store) * capacity

    def drop(self, gone: Sequence[int]) -> list[int]:
        """Remove rows; rows from the end move into their places. Returns the new order of old rows."""
        order = list(range(self.rows))
        self.rows -= len(gone)
        leaving = set(gone)
        holes = [row for row in gone if row < self.rows]
        movers = [row for row in range(self.rows, len(order)) if row not in leaving]
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
            for own in self.store:
                own[:, hole, :, : self.length] = own[:, mover, :, : self.length]
        return order[: self.rows]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """query (H, n, D), key and value (K, n, D) of the newest token -> output (H, n, D), log-sum-exp (H, n)."""
        keys, values = self.store[layer][:, : self.rows]
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
        self._layers: int = policy.model.config.get_text_config().num_hidden_layers

    # Adding and removing rows

    def prefill(self, places: Sequence[int], prompts: Sequence[EncodedPrompt], features: Sequence[Tensor]) -> None:
        """Prefill prompts, several in one pass."""
        self.prefixes.update(zip(places, prefill(self.policy, prompts, features), strict=True))

    def hidden(self, place: int) -> Tensor:
        """A prompt's last hidden state (hidden), from which the first token is sampled."""
        return self.prefixes[place].hidden

    def drop_prompt(self, place: int) -> None:
        """Release a prompt's memory."""
        self.prefixes.pop(place, None)

    def add_rows(self, places: Sequence[int]) -> None:
        """Append rows, given by the index of each one's prompt."""
        self._append(_Cohort(len(places), self.prefixes[places[0]].keys), places)

    def restore_rows(
        self, place: int, prompt: EncodedPrompt, features: Tensor, replies: Sequence[Sequence[int]]
    ) -> None:
        """Append rows of a prompt with equally many tokens each."""
        cohort = _Cohort(len(replies), self.prefixes[place].keys, len(replies[0]))
        for row, reply in enumerate(prefill_replies(self.policy, prompt, features, replies)):
            reply.write(cohort.store, row)
        self._append(cohort, [place] * len(replies))

    def _append(self, cohort: _Cohort, places: Sequence[int]) -> None:
        self._prompts.arrange([*self.owners, *places], self.prefixes)  # first, because memory may run out in it
        self.cohorts.append(cohort)
        self.owners += places

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

    # Memory

    def memory(self, lengths: Sequence[int], new_prompts: Sequence[int]) -> int:
        """Bytes of all keys and values with rows of these lengths in tokens, the present ones first, and with more
        prompts of these lengths."""
        prompts = [one.keys[0].shape[2] for one in self.prefixes.values()] + list(new_prompts)
        if self.policy.device.type != "cpu":  # padded to the longest
            prompts = [max(prompts, default=0)] * len(prompts)
        found, start = [], 0
        for cohort in self.cohorts:
            found.append(cohort.memory(lengths[start]))
            start += cohort.rows
        found += [cohort_capacity(length) * token_bytes(self.policy) for length in lengths[start:]]
        # while one layer of a cohort is copied, it exists twice
        return sum(prompts) * token_bytes(self.policy) + sum(found) + max(found, default=0) // self._layers

    def compact(self) -> None:
        """Release the memory of removed rows."""
        for cohort in self.cohorts:
            if cohort.store[0].shape[1] > cohort.rows:
                cohort.resize(cohort_capacity(cohort.length))

    # A step

    def padded_rows(self, rows: int) -> int:
        """Number of rows that a step computes for this many rows."""
        return rows

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Run one token per row, at index `lengths[i]` of its reply; hidden states (N, hidden)."""
        start = 0
        for cohort in self.cohorts:
            cohort.length = lengths[start]  # one less than after a step whose token was not drawn, for want of memory
            cohort.make_room()
            start += cohort.rows
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
