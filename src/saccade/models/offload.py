"""Keeping what the backward pass needs in the CPU's memory: slower by the transfers, for rows that do not fit a GPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

SMALL = 2**20
"""Bytes up to which a tensor stays: moving it costs more than it frees."""


class OffloadActivations(torch.autograd.graph.saved_tensors_hooks):
    """Inside, tensors that autograd saves go to pinned memory of the CPU and come back when backward asks for them.

    Weights, which autograd saves too, stay where they are. With gradient checkpointing only the layers' inputs are
    saved at all, and they are what moves. `moved_bytes` counts.
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
