"""How much memory the keys and values of decoding may take, and how much they take."""

from __future__ import annotations

import torch

from saccade.models.policy import Policy

SHARE = 0.8
"""Share of a GPU's free memory that keys and values may take; the rest is for activations, logits and fragments."""
GROWTH = 32
"""Tokens by which every row must be able to grow when rows are admitted, so that they are not sent back at once."""


def memory_limit(policy: Policy, memory_mb: int | None, kept: int = 0) -> int | None:
    """Bytes for keys and values in this call: as configured, else on a GPU a share of what is free now, else no limit.

    Free on a GPU is what neither tensors nor other processes use; torch's own unused blocks count as free, and so do
    `kept` bytes of keys and values from the last call.
    """
    if memory_mb is not None:
        return memory_mb * 2**20
    if policy.device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(policy.device)
    unused = torch.cuda.memory_reserved(policy.device) - torch.cuda.memory_allocated(policy.device)
    return int(SHARE * (free + unused + kept))


def token_bytes(policy: Policy) -> int:
    """Bytes of the keys and values of one token in all layers, for families with full attention in every layer."""
    text = policy.model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * policy.head_size * policy.model.dtype.itemsize
