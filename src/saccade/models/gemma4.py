"""Adapter of Gemma 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from saccade.models.adapter import EncodedPrompt, ImageLimits, MaskRules, Sharing
from saccade.models.chat import ChatAdapter, Pixels

BUDGETS = (70, 140, 280, 560, 1120)
"""Visual tokens of an image for which Gemma 4 was trained, at most."""


class Gemma4Adapter(ChatAdapter):
    """An image keeps its aspect ratio and becomes as many tokens as its budget allows. Most layers use a sliding
    window, in which the larger models let the tokens of an image attend to each other in both directions. Layers that
    share keys and values, and per-layer embeddings, need no special handling: one pass over the row computes both.

    Boxes are 0-1000 of each side ("thousand", as in Gemma 4's training). By default the family writes y before x, so a
    prompt must ask for x first. Audio is not supported; its tower counts as vision and gets no gradient.
    """

    placeholder = image_token = "<|image|>"
    end = "<turn|>"
    extra_stop_tokens = ("<eos>",)
    reserved_tokens = (
        "<|image|>",
        "<|image>",
        "<image|>",
        "<|video|>",
        "<|audio|>",
        "<|audio>",
        "<audio|>",
        "<|turn>",
        "<bos>",
    )
    pixel_names = ("pixel_values", "image_position_ids")
    projector = ("embed_vision.", "embed_audio.")
    tower = ("vision_tower.", "audio_tower.")
    sharing: Sharing = "masks"

    def __init__(self, *of_family: Any) -> None:
        """ValueError for a model with bidirectional attention over text: it does not predict the next token."""
        super().__init__(*of_family)
        self.two_way = self.config.get_text_config().use_bidirectional_attention
        if self.two_way == "all":
            raise ValueError("text_config.use_bidirectional_attention is 'all'; expected null or 'vision'")
        vision = self.config.vision_config
        self.patch, self.pool = vision.patch_size, vision.pooling_kernel_size

    def image_settings(self, limits: ImageLimits) -> dict[str, Any]:
        """The largest of the family's budgets of visual tokens within the limits; images are resized to the budget."""
        if limits.min_pixels is not None:
            self.refuse_limit("min_pixels", limits.min_pixels, "resizes every image to its budget of visual tokens")
        each, most = (self.patch * self.pool) ** 2, self.image_processor.max_soft_tokens
        for key, tokens in (
            ("max_visual_tokens", limits.max_visual_tokens),
            ("max_pixels", None if limits.max_pixels is None else limits.max_pixels // each),
        ):
            if tokens is not None:
                most = min(most, max((budget for budget in BUDGETS if budget <= tokens), default=0))
            if not most:
                got = int(getattr(limits, key))
                self.refuse_limit(key, got, f"has at least {BUDGETS[0]} visual tokens of {each} pixels")
        return {"max_soft_tokens": most}

    def placeholder_texts(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[str]:
        patches_N = (pixels["image_position_ids"] >= 0).all(-1).sum(-1)
        return [f"<|image>{self.image_token * (int(n) // self.pool**2)}<image|>" for n in patches_N]

    def input_sizes(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[tuple[int, int]]:
        sizes_N2 = (pixels["image_position_ids"].amax(1) + 1) * self.patch
        return [(int(width), int(height)) for width, height in sizes_N2]

    def image_features(self, model: Any, pixels: Pixels, prompts: Sequence[EncodedPrompt]) -> Sequence[Tensor]:
        out = model.model.get_image_features(pixels["pixel_values"], pixels["image_position_ids"], return_dict=True)
        per_image = iter(out.pooler_output)
        return [torch.cat([next(per_image) for _ in p.frames]) for p in prompts]

    def plain_inputs(self, prompt: EncodedPrompt, ids_BT: Tensor) -> dict[str, Tensor]:
        """Adds the token types, without which the model masks images causally."""
        types_BT = torch.isin(ids_BT, torch.tensor(self.image_ids, dtype=ids_BT.dtype)).long()
        return super().plain_inputs(prompt, ids_BT) | {"mm_token_type_ids": types_BT}

    def mask_rules(self, model: Any) -> MaskRules:
        """Full layers are causal; sliding layers attend to an image in both directions, within the window."""
        windows = {"full_attention": None, "sliding_attention": self.config.get_text_config().sliding_window}
        return MaskRules(windows, frozenset({"sliding_attention"} if self.two_way == "vision" else ()))
