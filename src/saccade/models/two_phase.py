"""Sharing a prompt through the family's own cache: for models with stateful layers, such as linear attention.

The prompt runs once and fills its cache, with gradients; the cache is repeated for each branch, and the branches run on
it as a padded batch. The family's own attention is used, so this is correct for any layer with a cache, at the cost of
G copies of the prompt's keys and values. Shape letters: P prompt tokens, G branches, L longest branch, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from saccade.models.adapter import Adapter
from saccade.models.attention import with_cache
from saccade.models.packing import Packed


def two_phase_hidden(
    model: Any, adapter: Adapter, packed: Packed, outputs: dict[str, Any] | None, device: torch.device
) -> Tensor:
    """Hidden states (R, D) that predict the loss tokens of a packed batch of one group.

    `outputs` are the prompt's `mm_encoder_outputs`. ValueError under gradient checkpointing, with which transformers
    silently drops the cache.
    """
    (prompt,), (branches,) = packed.prompts, packed.branches
    check_no_checkpointing(model)
    cache = DynamicCache(config=model.config.get_text_config())
    P, G, L = len(prompt), len(branches), max(len(b.ids) for b in branches)
    ids_1P = prompt.ids_P[None].to(device)
    extra = prompt_inputs(adapter, packed, device)
    keep_graph(cache)
    hidden_1PD = model.model(
        input_ids=ids_1P,
        position_ids=adapter.position_ids(prompt.positions_3P[:, None]).to(device),
        use_cache=True,
        mm_encoder_outputs=outputs,
        **with_cache(cache),
        **extra,
    ).last_hidden_state
    first_G: Any = torch.zeros(G, dtype=torch.long, device=device)  # declared a LongTensor
    cache.reorder_cache(first_G)
    ids_GL = torch.zeros(G, L, dtype=torch.long)
    mask_GT = torch.ones(G, P + L, dtype=torch.long)
    for row, branch in enumerate(branches):
        ids_GL[row, : len(branch.ids)] = torch.tensor(branch.ids)
        mask_GT[row, P + len(branch.ids) :] = 0
    positions_3GL = (prompt.next_position + torch.arange(L)).expand(3, G, L)
    hidden_GLD = model.model(
        input_ids=ids_GL.to(device),
        position_ids=adapter.position_ids(positions_3GL).to(device),
        attention_mask=mask_GT.to(device),
        use_cache=True,
        **with_cache(cache),
    ).last_hidden_state
    rows = []
    for row, branch in enumerate(branches):
        n = len(branch.ids)
        before = torch.cat([hidden_1PD[:, -1], hidden_GLD[row, : n - 1]])
        rows.append(before[branch.loss_places()])
    return torch.cat(rows)


def prompt_inputs(adapter: Adapter, packed: Packed, device: torch.device) -> dict[str, Tensor]:
    """Inputs of the family's forward for the prompt other than pixels, such as token types."""
    (prompt,) = packed.prompts
    inputs = adapter.plain_inputs(prompt, prompt.ids_P[None])
    return {name: value.to(device) for name, value in inputs.items() if name not in prompt.pixels}


def check_no_checkpointing(model: Any) -> None:
    """ValueError when a layer would be recomputed: it would not see the cache and would lose the prompt."""
    if any(getattr(m, "gradient_checkpointing", False) and m.training for m in model.modules()):
        raise ValueError(
            "this family shares prompts through its cache, which gradient checkpointing drops; "
            "set model.gradient_checkpointing: false, or update.shared_prefix: off"
        )


def keep_graph(cache: DynamicCache) -> None:
    """Make the linear-attention layers of this cache differentiable.

    transformers overwrites a layer's old state in place, which autograd needs unchanged; here each update writes into
    a copy of it.
    """
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            for name in ("update_conv_state", "update_recurrent_state"):
                setattr(layer, name, _into_a_copy(layer, getattr(layer, name)))


def _into_a_copy(layer: Any, update: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(state: Tensor, state_idx: int = 0, **options: Any) -> Tensor:
        for stored in (layer.conv_states, layer.recurrent_states):
            if stored[state_idx] is not None:
                stored[state_idx] = stored[state_idx].clone()
        return update(state, state_idx=state_idx, **options)

    return call
