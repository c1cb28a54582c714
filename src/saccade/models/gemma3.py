"""Adapter of Gemma 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from saccade.models.adapter import EncodedPrompt, ImageLimits, MaskRules, Sharing
from saccade.models.chat import ChatAdapter, Pixels


class Gemma3Adapter(ChatAdapter):
    """An image is resized to one square input and becomes a fixed number of tokens, which attend to each other in both
    directions; most layers use a sliding window. Boxes are 0-1000 of each side ("thousand"). By default the family
    writes y before x, so a prompt must ask for x first.

    Images are not cropped (the processor's "pan and scan" is also off by default).
    """

    placeholder = "<start_of_image>"
    image_token = "<image_soft_token>"
    end = "<end_of_turn>"
    extra_stop_tokens = ("<eos>",)
    reserved_tokens = ("<image_soft_token>", "<start_of_image>", "<end_of_image>", "<start_of_turn>", "<bos>")
    projector = ("multi_modal_projector.",)
    tower = ("vision_tower.",)
    sharing: Sharing = "masks"

    def image_settings(self, limits: ImageLimits) -> dict[str, Any]:
        """Every image has one size, so limits can only be kept or not."""
        pixels, tokens = self.config.vision_config.image_size**2, self.config.mm_tokens_per_image
        why = f"resizes every image to {pixels} pixels, {tokens} visual tokens"
        if limits.max_pixels is not None and limits.max_pixels < pixels:
            self.refuse_limit("max_pixels", limits.max_pixels, why)
        if limits.max_visual_tokens is not None and limits.max_visual_tokens < tokens:
            self.refuse_limit("max_visual_tokens", limits.max_visual_tokens, why)
        if limits.min_pixels is not None and limits.min_pixels > pixels:
            self.refuse_limit("min_pixels", limits.min_pixels, why)
        return {}

    def read_images(self, images: Sequence[Image.Image]) -> Pixels:
        out = self.image_processor(images=list(images), do_convert_rgb=True, do_pan_and_scan=False, return_tensors="pt")
        return {"pixel_values": out["pixel_values"]}

    def placeholder_texts(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[str]:
        tokens = self.image_token * self.config.mm_tokens_per_image
        return [f"\n\n{self.placeholder}{tokens}<end_of_image>\n\n"] * len(images)

    def input_sizes(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[tuple[int, int]]:
        height, width = pixels["pixel_values"].shape[-2:]
        return [(width, height)] * len(images)

    def image_features(self, model: Any, pixels: Pixels, prompts: Sequence[EncodedPrompt]) -> Sequence[Tensor]:
        features_NVD = model.model.get_image_features(pixels["pixel_values"], return_dict=True).pooler_output
        return [of_prompt.flatten(0, 1) for of_prompt in features_NVD.split([len(p.frames) for p in prompts])]

    def as_mm_outputs(self, features: Sequence[Tensor]) -> dict[str, Any] | None:
        """The model takes one tensor (images, tokens, D) and checks only its size."""
        present = [f for f in features if f.shape[0]]
        return {"image": BaseModelOutputWithPooling(pooler_output=torch.cat(present)[None])} if present else None

    def plain_inputs(self, prompt: EncodedPrompt, ids_BT: Tensor) -> dict[str, Tensor]:
        """Adds the token types, without which the model masks images causally."""
        types_BT = torch.isin(ids_BT, torch.tensor(self.image_ids, dtype=ids_BT.dtype)).long()
        return super().plain_inputs(prompt, ids_BT) | {"token_type_ids": types_BT}

    def mask_rules(self, model: Any) -> MaskRules:
        """Tokens of an image attend to each other in all layers; in sliding layers only within the window."""
        window = self.config.get_text_config().sliding_window
        return MaskRules(
            {"full_attention": None, "sliding_attention": window}, frozenset({"full_attention", "sliding_attention"})
        )
