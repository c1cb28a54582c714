"""Saved activations in CPU memory: slower because of the transfers, for rows that do not fit on a GPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

SMALL = 2**20
"""Tensors up to this many bytes are not moved: the transfer costs more than the memory is worth."""


class OffloadActivations(torch.autograd.graph.saved_tensors_hooks):
    """Within the context, tensors that autograd saves move to pinned CPU memory and return when backward needs them.

    Weights, which autograd also saves, are not moved. With gradient checkpointing only the layers' inputs are saved,
    so only they move. `moved_bytes` counts the bytes moved.
    """

    def __init__(self, weights: Iterable[Tensor], small: int = SMALL) -> None:
        kept = {weight.untyped_storage().data_ptr() for weight in weights}
        self.moved_bytes = 0

        def pack(tensor: Tensor) -> Any:
            if tensor.nbytes <= small or tensor.untyped_storage().data_ptr() in kept:
                return tensor
            self.moved_bytes += tensor.nbytes
            away = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            # not blocking: the copy is in the stream's order, and so is the one back
            return tensor.device, away.copy_(tensor, non_blocking=True)

        def unpack(saved: Any) -> Tensor:
            if isinstance(saved, Tensor):
                return saved
            device, away = saved
            return away.to(device, non_blocking=True)

        super().__init__(pack, unpack)
