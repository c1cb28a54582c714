"""Attention of vision towers that cut images into windows, or a batch into images: one call for windows of a length.

transformers loops over the windows in Python unless flash attention is asked for, and reads their lengths from the
device in every layer. It takes any registered attention with "flash" in its name to accept the windows' limits instead
(`cu_seq_lens_q`), so this one does, and computes the same with sdpa. Shape letters: S patches, L patches of a window, n
windows of one length, H heads, D head size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import signature
from itertools import groupby, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from saccade.models.adapter import Sharing
from saccade.models.config import ModelConfig

NAME = "saccade_flash_windows"
_PLAN = "_saccade_windows"


@dataclass(frozen=True, eq=False)
class _Windows:
    """How the patches are taken together: `counts` windows of `lengths` patches, one call each."""

    lengths: tuple[int, ...]
    counts: tuple[int, ...]
    order_S: Tensor | None
    """Patches sorted by the length of their window; None when they are."""
    back_S: Tensor | None


def _windows(limits: Tensor) -> _Windows:
    """Computed once for the layers of a pass, which are given the same tensor."""
    known = getattr(limits, _PLAN, None)
    if known is None:
        ends = limits.tolist()
        spans = [(end - start, start, end) for start, end in pairwise(ends) if end > start]
        ordered = sorted(spans)
        runs = [(length, len(list(some))) for length, some in groupby(length for length, _, _ in ordered)]
        order = back = None
        if ordered != spans:
            order = torch.cat([torch.arange(start, end) for _, start, end in ordered]).to(limits.device)
            back = torch.argsort(order)
        known = _Windows(tuple(length for length, _ in runs), tuple(count for _, count in runs), order, back)
        setattr(limits, _PLAN, known)
    return known


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    **options: Any,
) -> tuple[Tensor, None]:
    """query, key and value (1, H, S, D) -> (1, S, H, D)."""
    windows = _windows(cu_seq_lens_q)
    qkv = [x[0] if windows.order_S is None else x[0].index_select(1, windows.order_S) for x in (query, key, value)]
    parts, start = [], 0
    for length, count in zip(windows.lengths, windows.counts, strict=True):
        end = start + length * count
        q, k, v = (x[:, start:end].unflatten(1, (count, length)).transpose(0, 1) for x in qkv)
        out = F.scaled_dot_product_attention(
            q, k, v, dropout_p=options.get("dropout", 0.0), scale=options.get("scaling")
        )
        parts.append(out.transpose(1, 2).flatten(0, 1))
        start = end
    out_SHD = parts[0] if len(parts) == 1 else torch.cat(parts)
    return (out_SHD if windows.back_S is None else out_SHD.index_select(0, windows.back_S))[None], None


AttentionInterface.register(NAME, _attention)


def check(config: ModelConfig, sharing: Sharing, device: torch.device) -> None:
    """ValueError, before weights are read, for an attention that cannot work here."""
    if config.attn_implementation != "flash_attention_2":
        return
    if device.type != "cuda":
        raise ValueError(
            f"model.attn_implementation: flash_attention_2 needs a GPU, but the device is {device}; use auto"
        )
    if sharing != "attention":
        raise ValueError(
            "model.attn_implementation: flash_attention_2 takes no masks, which this family needs to share a prompt; "
            "use auto"
        )
    if find_spec("flash_attn") is None:
        raise ValueError(
            "model.attn_implementation: flash_attention_2 needs the package flash-attn (pip install flash-attn); use "
            "auto, which needs none"
        )


def _config_of(model: Any) -> Any | None:
    """The configuration that the tower's attention layers read, if they take the limits of windows."""
    for module in model.modules():
        if isinstance(module, nn.Module) and "cu_seqlens" in signature(module.forward).parameters:
            config = getattr(module, "config", None)
            if config is not None and hasattr(config, "_attn_implementation"):
                return config
    return None


def install(model: Any) -> None:
    """Use it in a tower that would loop; other models stay as they are.

    The tower gets a configuration of its own: from one with this name transformers would build no other model.
    """
    config = _config_of(model)
    if config is None or config._attn_implementation == NAME:
        return
    ours = copy.copy(config)
    ours._attn_implementation = NAME
    for module in model.modules():
        if getattr(module, "config", None) is config:
            module.config = ours


@contextmanager
def original_tower(model: Any) -> Iterator[None]:
    """The family's own loop within the context, to compare with."""
    config = _config_of(model)
    if config is None or config._attn_implementation != NAME:
        yield
        return
    config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        config._attn_implementation = NAME
