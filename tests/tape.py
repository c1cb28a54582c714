"""A recording of tensor operations with the rules of a CUDA graph, for any device.

Replaying runs the same operations, with the same numbers of the host, on the same memory: whatever a step asks of the
host between two operations is what it was when the step was recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

HOST = ("aten::_local_scalar_dense", "aten::nonzero", "aten::lift_fresh", "aten::is_nonzero", "aten::masked_select")
"""Operations that wait for the device, or bring data from the host: while a CUDA graph is recorded they are errors."""


class Tape(TorchDispatchMode):
    """What ran inside."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.out = torch.empty(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().split(".")[0] in HOST:
            raise RuntimeError(f"{func.name()} cannot be part of a CUDA graph")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        now: dict[int, Tensor] = {}

        def current(tensor: Tensor) -> Tensor:
            return now.get(id(tensor), tensor)

        for func, args, kwargs, before in self.calls:
            found = func(*tree_map_only(Tensor, current, args), **tree_map_only(Tensor, current, kwargs))
            for old, new in zip(tree_flatten(before)[0], tree_flatten(found)[0], strict=True):
                if isinstance(old, Tensor):
                    now[id(old)] = new
        self.out.copy_(current(self.out))


def record(step: Callable[[], Tensor], first: bool) -> tuple[Tape, Tensor]:
    """A recorder for `Graphs`."""
    tape = Tape()
    with tape:
        out = step()
    tape.out = out
    return tape, out
