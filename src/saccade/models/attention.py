"""The hook into transformers' attention: a registered implementation that lets each call supply its own attention.

A model whose language layers use the attention `NAME` behaves as with sdpa until its forward is called with
`shared_attention=` an object that satisfies `SharedAttention`. That argument is passed through every layer (gradient
checkpointing included) to `attend`. Packed training, slot decoding and the plain path therefore use one unmodified
model and no global switch, and a checkpointed layer recomputes in backward exactly what it computed in forward.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "saccade"
_CACHE = "cache" if Version(transformers.__version__) >= Version("5.24") else "past_key_values"
"""transformers 5.24 renamed the argument. The old name still works there, with a warning at each call."""


class SharedAttention(Protocol):
    """Replaces the attention of every language layer in one call of the model."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """query (B, H, T, D), key and value (B, K, T', D) with K key/value heads; returns (B, H, T, D)."""
        ...


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    shared_attention: SharedAttention | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    if shared_attention is None:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return out, None
    out = shared_attention.attend(module.layer_idx, query, key, value, options.get("scaling"))
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def install(model: Any) -> None:
    """Use the attention `NAME` in the language layers of `model`; its other parts keep their attention."""
    model.set_attn_implementation({"text_config": NAME})


def with_cache(cache: Cache) -> dict[str, Cache]:
    """The keyword argument that makes a model's forward read and extend `cache`; its name depends on the transformers
    version.

    `model(input_ids=ids, use_cache=True, **with_cache(cache))`
    """
    return {_CACHE: cache}


def no_mask(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The mask to pass along with `shared_attention`. transformers forwards a 4-D mask unchanged; without a mask it
    would detect packed sequences from the positions and mask them itself."""
    return torch.zeros(1, 1, 1, 1, device=device, dtype=dtype)
