"""The table at the start of a run: what trains, by part."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from saccade.models.policy import Policy
from saccade.models.quantize import elements
from saccade.training.config import OptimConfig


def trained_table(policy: Policy, optim: OptimConfig) -> str:
    """Lines of text: part, parameters, those that train, dtype of either, peak learning rate."""
    rates: dict[str, float] = {**optim.lr_of}
    rows: list[tuple[str, ...]] = [("part", "parameters", "trainable", "dtype", "learning rate")]
    for part, named in policy.parameters_by_part().items():
        moving = [p for _, p in named if p.requires_grad]
        still = [p for _, p in named if not p.requires_grad]
        lr = f"{rates.get(part, optim.lr):.3g}" if moving else "frozen"
        counts = (f"{sum(map(elements, some)):,}" for some in ([*moving, *still], moving))
        rows.append((part, *counts, _dtypes(moving, still), lr))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(map(str.rstrip, lines))


def _dtypes(moving: Sequence[nn.Parameter], still: Sequence[nn.Parameter]) -> str:
    """`bfloat16`, or `bfloat16 on nf4, bfloat16` where adapters train on frozen weights in 4 bits."""
    ours, theirs = (", ".join(dict.fromkeys(map(_dtype, some))) for some in (moving, still))
    return f"{ours} on {theirs}" if ours and theirs and ours != theirs else ours or theirs


def _dtype(parameter: nn.Parameter) -> str:
    state = getattr(parameter, "quant_state", None)
    return str(parameter.dtype).removeprefix("torch.") if state is None else str(state.quant_type)
