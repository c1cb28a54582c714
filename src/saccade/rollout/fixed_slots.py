"""Decoding in memory at fixed addresses, with few step shapes, so that CUDA graphs can replay the steps.

The same computation as `slots`, for devices on which launching a kernel costs more than its work. Rows and prompts have
slots in tensors of a fixed size; each row has its own number of tokens. A step reads what changes (tokens, positions,
lengths, prompt of each row) from buffers at fixed addresses, without synchronizing with the host. Its shape is the
number of rows, prompts and tokens of capacity, each rounded up; the excess is masked, or computed and ignored.

Shape letters: N rows, B prompts, G rows of a prompt, H query heads, K key/value heads, T own tokens, P prompt tokens,
D head size.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from saccade.models.adapter import EncodedPrompt
from saccade.models.policy import Policy
from saccade.rollout.kv_memory import token_bytes
from saccade.rollout.prefill import PromptKV, prefill, prefill_replies, run
from saccade.rollout.prompt_attention import merge, plain_attention

ROOM = 128
"""Initial capacity of a row in tokens of its reply."""

Shape = tuple[int, int, int]
"""Rows, prompts and own tokens of a step."""


class Runner(Protocol):
    """Executes steps of fixed shape."""

    def run(self, shape: Shape, step: Callable[[], Tensor]) -> Tensor:
        """The result of `step`. The memory that a step reads and writes stays the same until `reset`; the result is
        valid until the next step."""
        ...

    def reset(self) -> None:
        """Discard everything recorded so far, because the memory of these steps is released."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds for one call of the engine."""

    rows: int
    """Rows decoded at once."""
    group_size: int
    own_tokens: int
    """Tokens of a reply."""
    prompts: int
    """Prompts in the call."""
    prompt_tokens: int
    """Length of the longest prompt."""
    bounded: bool = False
    """Memory is limited: take no more rows and prompts than are there."""


def rounded_rows(rows: int) -> int:
    """Rounds up to 1, 2, 4, 8, then to a power of two or 1.5 times one: few shapes, at most a third of excess."""
    power = 1 << (rows - 1).bit_length()
    return power * 3 // 4 if power >= 16 and rows <= power * 3 // 4 else power


def capacity_for(own_tokens: int) -> int:
    """Capacity in tokens of a row whose reply has this many tokens: `ROOM` times a power of two or 1.5 times one, so
    that at most a third is unused and few steps have a shape of their own."""
    room = ROOM
    while room < own_tokens:
        room = room * 3 // 2 if room & (room - 1) == 0 else room * 4 // 3
    return room


class FixedSlots:
    """The rows being decoded; row i is in slot i."""

    def __init__(self, policy: Policy, limits: Limits, runner: Runner) -> None:
        self.policy, self.limits, self.runner = policy, limits, runner
        self.owners: list[int] = []
        """Index of each row's prompt in the call."""
        self._hidden: dict[int, Tensor] = {}
        self._next: dict[int, int] = {}
        self._slot: dict[int, int] = {}
        """Slot of each prompt in memory."""
        self._free: list[int] = []
        self._own: list[Tensor] = []
        """Keys and values of the rows, (2, N, K, T, D) by layer."""
        self._rows = self._room = 0
        """Rows and tokens of capacity that every layer of it has."""
        self._prompts: list[Tensor] = []
        """Those of the prompts, (2, B, K, P, D) by layer."""
        self._inputs_3N = torch.zeros(3, limits.rows, dtype=torch.long, device=policy.device)
        """Token, position and number of own tokens before it."""
        self._cell_N = torch.zeros(limits.rows, dtype=torch.long, device=policy.device)
        self._rows_BG = self._beyond_B11P = torch.empty(0, device=policy.device)
        self._later_N11T = torch.empty(0, device=policy.device)
        self._shape: Shape = (0, 0, 0)

    # Adding and removing rows

    def prefill(self, places: Sequence[int], prompts: Sequence[EncodedPrompt], features: Sequence[Tensor]) -> None:
        """Prefill prompts, several in one pass, and store each in its own slot."""
        for place, prefix in zip(places, prefill(self.policy, prompts, features), strict=True):
            if not self._own:
                self._own = [keys.new_empty(2, 0, keys.shape[1], 0, keys.shape[3]) for keys in prefix.keys]
            if not self._free:
                self._resize_prompts(self._prompt_slots(1), prefix)
            self._slot[place] = heapq.heappop(self._free)
            self._hidden[place], self._next[place] = prefix.hidden, prefix.next_position
            self._keep(self._slot[place], prefix)

    def hidden(self, place: int) -> Tensor:
        """A prompt's last hidden state (hidden), from which the first token is sampled."""
        return self._hidden[place]

    def drop_prompt(self, place: int) -> None:
        """Release a prompt's slot."""
        if place in self._slot:
            heapq.heappush(self._free, self._slot.pop(place))
            del self._hidden[place], self._next[place]

    def add_rows(self, places: Sequence[int]) -> None:
        """Append rows, given by the index of each one's prompt."""
        self._resize(*self._target(len(self.owners) + len(places), 1))
        self.owners += places
        self._arrange()

    def restore_rows(
        self, place: int, prompt: EncodedPrompt, features: Tensor, replies: Sequence[Sequence[int]]
    ) -> None:
        """Append rows of a prompt with equally many tokens each."""
        first = len(self.owners)
        self._resize(*self._target(first + len(replies), len(replies[0])))
        for row, reply in enumerate(prefill_replies(self.policy, prompt, features, replies), first):
            reply.write(self._own, row)
        self.owners += [place] * len(replies)
        self._arrange()

    def remove_rows(self, gone: Sequence[int]) -> list[int]:
        """Remove rows (ascending); rows from the end move into their slots. Returns the new order of old rows."""
        order, rest = list(range(len(self.owners))), len(self.owners) - len(gone)
        leaving = set(gone)
        holes = [row for row in gone if row < rest]
        movers = [row for row in range(rest, len(order)) if row not in leaving]
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        if holes:
            to, source = (torch.tensor(rows, device=self.policy.device) for rows in (holes, movers))
            for own in self._own:
                own[:, to] = own[:, source]
        self.owners = [self.owners[row] for row in order[:rest]]
        self._arrange()
        return order[:rest]

    # A step

    def padded_rows(self, rows: int) -> int:
        """Number of rows that a step computes for this many rows."""
        return min(rounded_rows(rows), self._rows)

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Run one token per row, at index `lengths[i]` of its reply; hidden states (N, hidden), valid until the next
        step."""
        N = len(tokens)
        self._resize(*self._target(N, max(lengths) + 1))
        positions = [self._next[owner] + length for owner, length in zip(self.owners, lengths, strict=True)]
        self._inputs_3N[:, :N].copy_(torch.tensor([tokens, positions, lengths]))
        prompts = min(1 << max(self._slot.values()).bit_length(), len(self._rows_BG))
        self._shape = (self.padded_rows(N), prompts, self._room)
        return self.runner.run(self._shape, self._step)[:N]

    def _step(self) -> Tensor:
        """Reads only device memory at fixed addresses, and `_shape`."""
        N, _, T = self._shape
        tokens_N, positions_N, lengths_N = self._inputs_3N[:, :N]
        later_NT = torch.arange(T, device=lengths_N.device) > lengths_N[:, None]
        self._later_N11T = torch.zeros_like(later_NT, dtype=torch.float32).masked_fill_(later_NT, -torch.inf)[
            :, None, None
        ]
        return run(self.policy, tokens_N, positions_N.expand(3, 1, -1), self)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """See `SharedAttention`: query (1, H, N, D), key and value (1, K, N, D)."""
        N, B, _ = self._shape
        scale = float(query.shape[-1] ** -0.5 if scale is None else scale)
        query_NHD = query[0].transpose(0, 1)
        keys, values = self._own[layer][:, :N]
        at_NK1D = self._inputs_3N[2, :N, None, None, None].expand(-1, keys.shape[1], 1, keys.shape[3])
        keys.scatter_(2, at_NK1D, key[0].transpose(0, 1)[:, :, None])
        values.scatter_(2, at_NK1D, value[0].transpose(0, 1)[:, :, None])
        own, own_lse = plain_attention(query_NHD[:, :, None], keys, values, scale, self._later_N11T)
        prompt_keys, prompt_values = self._prompts[layer][:, :B]
        asked_BHGD = query_NHD[self._rows_BG[:B]].transpose(1, 2)
        cross, cross_lse = plain_attention(asked_BHGD, prompt_keys, prompt_values, scale, self._beyond_B11P[:B])
        cross_NHD, cross_NH = (x.transpose(1, 2).flatten(0, 1)[self._cell_N[:N]] for x in (cross, cross_lse))
        out_NHD = merge((own[:, :, 0], own_lse[:, :, 0]), (cross_NHD, cross_NH), query.dtype)
        return out_NHD.transpose(0, 1)[None]

    # Memory

    def _arrange(self) -> None:
        """Map rows to prompts: a grid with the rows of each prompt, and every row's cell in it. Unused entries point to
        the first row and cell, which every step has."""
        G = self.limits.group_size
        grid, cells = torch.zeros(self._rows_BG.shape, dtype=torch.long), [0] * self.limits.rows
        filled: dict[int, int] = {}
        for row, owner in enumerate(self.owners):
            column, b = filled.get(owner, 0), self._slot[owner]
            filled[owner] = column + 1
            grid[b, column], cells[row] = row, b * G + column
        self._rows_BG.copy_(grid)
        self._cell_N.copy_(torch.tensor(cells))

    def memory(self, lengths: Sequence[int], new_prompts: Sequence[int]) -> int:
        """Bytes of all keys and values with rows of these lengths in tokens, the present ones first, and with more
        prompts of these lengths."""
        one, limits = token_bytes(self.policy), self.limits
        rows, room = self._target(len(lengths), max(lengths, default=0))
        own, prompts = rows * room * one, self._prompt_slots(len(new_prompts)) * limits.prompt_tokens * one
        layers: int = self.policy.model.config.get_text_config().num_hidden_layers
        # while one layer is copied, it exists twice
        return own + prompts + max(own, self._rows * self._room * one, prompts) // layers

    def held(self) -> int:
        """Bytes of keys and values that are allocated."""
        return sum(one.nbytes for one in (*self._own, *self._prompts))

    def clear(self) -> None:
        """Forget all rows and prompts and keep the memory, for another call with the same limits."""
        self.owners.clear()
        for state in (self._hidden, self._next, self._slot):
            state.clear()
        self._free = list(range(len(self._rows_BG)))
        self._arrange()

    def compact(self) -> None:
        """Release the memory of removed rows and prompts."""
        if self._rows > len(self.owners):
            self._resize(len(self.owners), self._room if self.owners else 0)
        if self._prompts and self._free:
            self._resize_prompts(len(self._slot), None)

    def _target(self, rows: int, tokens: int) -> tuple[int, int]:
        """Rows and capacity to have for this many rows with this many tokens."""
        limits = self.limits
        room = self._room if tokens <= self._room else min(capacity_for(tokens), limits.own_tokens)
        if rows <= self._rows and room == self._room:
            return self._rows, room
        return (min(rounded_rows(rows), limits.rows) if limits.bounded and rows else limits.rows), room

    def _resize(self, rows: int, room: int) -> None:
        """Change rows and capacity, layer by layer, so that only one layer is in memory twice."""
        if (rows, room) == (self._rows, self._room):
            return
        self.runner.reset()
        for layer, own in enumerate(self._own):
            wide = own.new_zeros(2, rows, own.shape[2], room, own.shape[4])
            kept, tokens = min(rows, own.shape[1]), min(room, own.shape[3])
            wide[:, :kept, :, :tokens] = own[:, :kept, :, :tokens]
            self._own[layer] = wide
        self._rows, self._room = rows, room

    def _prompt_slots(self, more: int) -> int:
        """Number of slots to have for this many more prompts: those that are there, or what fills the rows at first and
        then twice as many."""
        limits, before, needed = self.limits, len(self._rows_BG), len(self._slot) + more
        if needed <= before:
            return before
        return needed if limits.bounded else min(limits.prompts, 2 * before or -(-limits.rows // limits.group_size))

    def _resize_prompts(self, count: int, like: PromptKV | None) -> None:
        """Change the number of prompt slots; when there are fewer, the present prompts take the first ones."""
        self.runner.reset()
        limits, before = self.limits, len(self._rows_BG)
        kept = list(range(before)) if count >= before else sorted(self._slot.values())
        if like is not None and not self._prompts:
            self._prompts = [keys.new_empty(2, 0, keys.shape[1], 0, keys.shape[3]) for keys in like.keys]
        for layer, old in enumerate(self._prompts):
            wide = old.new_zeros(2, count, old.shape[2], limits.prompt_tokens, old.shape[4])
            if kept:
                wide[:, : len(kept)] = old[:, kept]
            self._prompts[layer] = wide
        beyond_B11P = torch.zeros(count, 1, 1, limits.prompt_tokens, device=self.policy.device)
        if kept:
            beyond_B11P[: len(kept)] = self._beyond_B11P[kept]
        self._beyond_B11P = beyond_B11P
        self._rows_BG = torch.zeros(count, limits.group_size, dtype=torch.long, device=self.policy.device)
        self._slot = {place: kept.index(slot) for place, slot in self._slot.items()}
        self._free = sorted(set(range(count)) - set(self._slot.values()))
        self._arrange()

    def _keep(self, slot: int, prefix: PromptKV) -> None:
        length = prefix.keys[0].shape[2]
        self._beyond_B11P[slot] = 0
        self._beyond_B11P[slot, ..., length:] = -torch.inf
        for stacked, keys, values in zip(self._prompts, prefix.keys, prefix.values, strict=True):
            stacked[0, slot, :, :length], stacked[1, slot, :, :length] = keys[0], values[0]
