"""Sharing a prompt with dense masks, one per layer kind: for families with sliding windows or two-way image blocks.

Shape letters: T tokens of a packed row. Memory grows as T x T, so a row holds one group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.models.adapter import MaskRules
from saccade.models.packing import Packed


def dense_masks(packed: Packed, rules: MaskRules, image_ids: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """Additive masks (1, 1, T, T) by layer kind: each token attends to its own prompt and its own branch."""
    group_T, branch_T = packed.layout.segments()
    group, branch = group_T[:, None] == group_T, branch_T[:, None] == branch_T
    T = len(group_T)
    allowed = torch.ones(T, T, dtype=torch.bool).tril() & group & (branch | (branch_T[None, :] == 0))
    position_T = packed.positions_3T[0]
    distance = position_T[:, None] - position_T[None, :]
    block_T = image_blocks(packed.ids_T, image_ids)
    same_image = (block_T[:, None] == block_T) & (block_T[:, None] >= 0)
    masks = {}
    for kind, window in rules.windows.items():
        seen = allowed | same_image if kind in rules.image_blocks else allowed
        if window is not None:
            seen = seen & (distance < window)  # within an image too, as transformers counts it
        masks[kind] = torch.zeros(1, 1, T, T, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    return masks


def image_blocks(ids_T: Tensor, image_ids: tuple[int, ...]) -> Tensor:
    """Index of the image that each token belongs to, -1 for none; an image is a run of image tokens."""
    is_image_T = torch.isin(ids_T, torch.tensor(image_ids, dtype=ids_T.dtype))
    starts_T = is_image_T & ~torch.cat([torch.zeros(1, dtype=torch.bool), is_image_T[:-1]])
    return torch.where(is_image_T, starts_T.cumsum(0) - 1, -1)
