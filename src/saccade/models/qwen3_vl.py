"""Adapter of Qwen3-VL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from saccade.models.adapter import EncodedPrompt
from saccade.models.chat import Pixels
from saccade.models.qwen_vl import QwenVLAdapter


class Qwen3VLAdapter(QwenVLAdapter):
    """A visual token has K vectors: one for the input of the language model, and one that is added after each of its
    first K - 1 layers (deepstack, arXiv:2406.04334). The features of a prompt are therefore (V, K, D).

    The template of the Thinking checkpoints opens the assistant's turn with `<think>`, which then belongs to the
    prompt and not to the reply. The template of the Instruct checkpoints does not.
    """

    projector = ("visual.merger.", "visual.deepstack_merger_list.")

    def image_features(self, model: Any, pixels: Pixels, prompts: Sequence[EncodedPrompt]) -> Sequence[Tensor]:
        out = model.model.get_image_features(pixels["pixel_values"], pixels["image_grid_thw"], return_dict=True)
        levels = [out.pooler_output, *out.deepstack_features]
        per_image = iter([torch.stack(vectors, dim=1) for vectors in zip(*levels, strict=True)])
        return [torch.cat([next(per_image) for _ in p.frames]) for p in prompts]

    def as_mm_outputs(self, features: Sequence[Tensor]) -> dict[str, Any] | None:
        present = [f.unbind(1) for f in features if f.shape[0]]
        if not present:
            return None
        levels: Any = zip(*present, strict=True)  # declared tensors, read as sequences of tensors
        first, *deeper = levels
        return {"image": BaseModelOutputWithDeepstackFeatures(pooler_output=first, deepstack_features=deeper)}
