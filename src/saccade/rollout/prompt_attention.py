"""Attention of rows to their prompts, whose keys and values are stored once.

On a CPU there is one flash call per prompt, with all of its rows. Where a call costs more than its work, as on a GPU,
there is one batch: prompts are padded to the longest, and their rows to the largest number. Shape letters: N rows, B
prompts, G rows of a prompt, H query heads, K key/value heads, P prompt tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from saccade.rollout.prefill import PromptKV


class PromptAttention(Protocol):
    """Attention of the rows being decoded to their prompts."""

    def arrange(self, owners: Sequence[int], prefixes: Mapping[int, PromptKV]) -> None:
        """From now on row i attends to the prompt `prefixes[owners[i]]`."""
        ...

    def attend(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """query (1, H, N, D) -> output (1, H, N, D) and log-sum-exp (1, H, N)."""
        ...


class PerPromptAttention:
    """One call per prompt; rows are sorted by prompt where they are not adjacent."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.segments: list[tuple[int, int, PromptKV]] = []
        self._sorted: Tensor | None = None
        self._unsorted: Tensor | None = None

    def arrange(self, owners: Sequence[int], prefixes: Mapping[int, PromptKV]) -> None:
        order = sorted(range(len(owners)), key=owners.__getitem__)
        self.segments, start = [], 0
        for owner, rows in groupby(owners[row] for row in order):
            end = start + len(list(rows))
            self.segments.append((start, end, prefixes[owner]))
            start = end
        if order == list(range(len(order))):
            self._sorted = self._unsorted = None
        else:
            self._sorted = torch.tensor(order, device=self.device)
            self._unsorted = torch.argsort(self._sorted)

    def attend(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        query = query if self._sorted is None else query.index_select(2, self._sorted)
        out, lse = concatenate(
            [
                attention(query[:, :, start:end], prefix.keys[layer], prefix.values[layer], scale)
                for start, end, prefix in self.segments
            ],
            2,
        )
        if self._unsorted is not None:
            out, lse = out.index_select(2, self._unsorted), lse.index_select(2, self._unsorted)
        return out, lse


class BatchedPromptAttention:
    """One batch for all prompts. Keys and values move into padded tensors; each `PromptKV` becomes a view of them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.places: list[int] = []
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        empty = torch.zeros(0, device=device)
        self._mask_B11P, self._rows_BG, self._cell_N = empty, empty, empty

    def arrange(self, owners: Sequence[int], prefixes: Mapping[int, PromptKV]) -> None:
        places = sorted(set(owners))
        if places != self.places:
            self._stack([prefixes[place] for place in places])
            self.places = places
        if not places:
            return
        members: dict[int, list[int]] = {place: [] for place in places}
        for row, owner in enumerate(owners):
            members[owner].append(row)
        G = max(map(len, members.values()))
        # unused cells repeat a row, and their output is ignored
        grid = [rows + rows[:1] * (G - len(rows)) for rows in members.values()]
        cells = [0] * len(owners)
        for b, rows in enumerate(members.values()):
            for g, row in enumerate(rows):
                cells[row] = b * G + g
        self._rows_BG = torch.tensor(grid, device=self.device)
        self._cell_N = torch.tensor(cells, device=self.device)

    def attend(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        query_BGHD = query[0].transpose(0, 1)[self._rows_BG]
        out, lse = plain_attention(
            query_BGHD.transpose(1, 2), self._keys[layer], self._values[layer], scale, self._mask_B11P
        )
        out_NHD, lse_NH = (x.transpose(1, 2).flatten(0, 1)[self._cell_N] for x in (out, lse))
        return out_NHD.transpose(0, 1)[None], lse_NH.transpose(0, 1)[None]

    def _stack(self, prefixes: Sequence[PromptKV]) -> None:
        """Layer by layer, so that only one layer is in memory twice."""
        self._keys, self._values = [], []
        if not prefixes:
            return
        lengths = [one.keys[0].shape[2] for one in prefixes]
        for layer in range(len(prefixes[0].keys)):
            for stacked, own in (
                (self._keys, [p.keys for p in prefixes]),
                (self._values, [p.values for p in prefixes]),
            ):
                _, heads, _, size = own[0][layer].shape
                wide = own[0][layer].new_zeros(len(own), heads, max(lengths), size)
                for b, tensors in enumerate(own):
                    wide[b, :, : lengths[b]] = tensors[layer][0]
                    tensors[layer] = wide[b : b + 1, :, : lengths[b]]
                stacked.append(wide)
        beyond_BP = torch.arange(max(lengths))[None] >= torch.tensor(lengths)[:, None]
        mask_BP = torch.zeros(beyond_BP.shape).masked_fill_(beyond_BP, -torch.inf)
        self._mask_B11P = mask_BP[:, None, None].to(self.device)


def prompt_attention_for(device: torch.device) -> PromptAttention:
    return PerPromptAttention(device) if device.type == "cpu" else BatchedPromptAttention(device)


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Unmasked attention and its log-sum-exp: query (B, H, T, D), key and value (B, K, T', D) -> (B, H, T, D) and
    (B, H, T), the latter in float32 or wider. H is K or a multiple of it."""
    if query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, False, scale=scale)
    return plain_attention(query, key, value, scale)


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`attention` by matrix products, for any device; `mask` (B, 1, 1, T') is added to the scores."""
    B, H, T, D = query.shape
    folded = query.reshape(B, key.shape[1], -1, D)
    scores = folded @ key.transpose(-1, -2)
    scores = (scores if scores.dtype == torch.float64 else scores.float()) * scale
    scores = scores if mask is None else scores + mask
    lse = torch.logsumexp(scores, -1, keepdim=True)
    out = torch.exp(scores - lse).to(value.dtype) @ value
    return out.view(B, H, T, D), lse.view(B, H, T)


def concatenate(parts: Sequence[tuple[Tensor, Tensor]], dim: int) -> tuple[Tensor, Tensor]:
    """Concatenate outputs and log-sum-exps of several calls."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([out for out, _ in parts], dim), torch.cat([lse for _, lse in parts], dim)


def merge(own: tuple[Tensor, Tensor], cross: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
    """Attention over the union of two key sets, from the output (..., D) and log-sum-exp (...) over each."""
    share = torch.sigmoid(cross[1] - own[1])[..., None]
    return torch.lerp(own[0].to(share.dtype), cross[0].to(share.dtype), share).to(dtype)
