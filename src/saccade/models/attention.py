"""The seam into transformers' attention: one name, under which a call may carry its own way to attend.

A model whose language layers use the attention `NAME` behaves as with sdpa until its forward is called with
`shared_attention=` an object that satisfies `SharedAttention`; that argument travels through every layer (gradient
checkpointing included) to `attend`. So packed training, slot decoding and the plain path run through one unmodified
model, and nothing is switched in between: what a checkpointed layer recomputes in backward is what it computed.
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
    """What stands in for a layer's attention in one call of the model."""

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
    """Give the language layers of `model` the attention `NAME`; its other parts keep theirs."""
    model.set_attn_implementation({"text_config": NAME})


def with_cache(cache: Cache) -> dict[str, Cache]:
    """The argument of a model's forward that makes it read and extend `cache`, by the name this transformers gives it.

    `model(input_ids=ids, use_cache=True, **with_cache(cache))`
    """
    return {_CACHE: cache}


def no_mask(device: torch.device, dtype: torch.dtype) -> Tensor:
    """What to pass as mask beside `shared_attention`: transformers hands a 4-D mask through untouched, and without any
    it would look for packed sequences in the positions and mask them its own way."""
    return torch.zeros(1, 1, 1, 1, device=device, dtype=dtype)
