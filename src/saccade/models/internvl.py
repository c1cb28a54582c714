"""Adapter of InternVL (2.5 to 3.5, the checkpoints in transformers' own format, `-hf`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from saccade.models.adapter import EncodedPrompt, ImageLimits
from saccade.models.chat import ChatAdapter, Pixels


class InternVLAdapter(ChatAdapter):
    """An image is resized to a canvas of square tiles, which are encoded separately, followed by a thumbnail if there
    is more than one tile. Boxes are 0-1000 of the whole image, not of a tile ("thousand"; the grounding data of
    InternVL 1.5 to 3.5, `<box>[[x1, y1, x2, y2]]</box>`)."""

    placeholder = image_token = "<IMG_CONTEXT>"
    end = "<|im_end|>"
    extra_stop_tokens = ("<|endoftext|>",)
    reserved_tokens = ("<IMG_CONTEXT>", "<img>", "</img>", "<|im_start|>")
    pixel_names = ("pixel_values", "num_patches")
    projector = ("multi_modal_projector.",)
    tower = ("vision_tower.",)

    def read_images(self, images: Sequence[Image.Image]) -> Pixels:
        """Always tiled: the family's processor also ignores this setting in the image processor's file."""
        out = self.image_processor(images=list(images), crop_to_patches=True, return_tensors="pt")
        return {"pixel_values": out["pixel_values"], "num_patches": torch.as_tensor(out["num_patches"])}

    def image_settings(self, limits: ImageLimits) -> dict[str, Any]:
        """Fewest and most tiles; the thumbnail beside several tiles counts as visual tokens, not as pixels."""
        height, width = self.config.vision_config.image_size
        least, most, tile = self.image_processor.min_patches, self.image_processor.max_patches, height * width
        if limits.max_pixels is not None:
            most = limits.max_pixels // tile
            if not most:
                self.refuse_limit("max_pixels", limits.max_pixels, f"has tiles of {tile} pixels")
        if limits.max_visual_tokens is not None:
            per_tile = self._tokens_of(height, width)
            tiles = limits.max_visual_tokens // per_tile
            if not tiles:
                self.refuse_limit("max_visual_tokens", limits.max_visual_tokens, f"has {per_tile} tokens in a tile")
            most = min(most, max(tiles - 1, 1))
        if limits.min_pixels is not None:
            least = max(1, -(-limits.min_pixels // tile))
            if least > most:
                self.refuse_limit("min_pixels", limits.min_pixels, f"has at most {most} tiles of {tile} pixels")
        return {"min_patches": min(least, most), "max_patches": most}

    def _tokens_of(self, height: int, width: int) -> int:
        """Visual tokens of a tile of that size in pixels."""
        patch_height, patch_width = self.config.vision_config.patch_size
        return int((height // patch_height) * (width // patch_width) * self.config.downsample_ratio**2)

    def placeholder_texts(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[str]:
        per_tile = self._tokens_of(*pixels["pixel_values"].shape[-2:])
        return [f"<img>{self.image_token * (per_tile * int(tiles))}</img>" for tiles in pixels["num_patches"]]

    def input_sizes(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[tuple[int, int]]:
        """The canvas, without the thumbnail."""
        height, width = pixels["pixel_values"].shape[-2:]
        least, most = self.image_processor.min_patches, self.image_processor.max_patches
        grids = (get_optimal_tiled_canvas((i.height, i.width), (height, width), least, most) for i in images)
        return [(columns * width, rows * height) for columns, rows in grids]

    def image_features(self, model: Any, pixels: Pixels, prompts: Sequence[EncodedPrompt]) -> Sequence[Tensor]:
        features_NVD = model.model.get_image_features(pixels["pixel_values"], return_dict=True).pooler_output
        tiles = [int(p.pixels["num_patches"].sum()) for p in prompts]
        return [of_prompt.flatten(0, 1) for of_prompt in features_NVD.split(tiles)]

    def as_mm_outputs(self, features: Sequence[Tensor]) -> dict[str, Any] | None:
        """The model takes one tensor (tiles, tokens, D) and checks only its size."""
        present = [f for f in features if f.shape[0]]
        return {"image": BaseModelOutputWithPooling(pooler_output=torch.cat(present)[None])} if present else None

    def plain_inputs(self, prompt: EncodedPrompt, ids_BT: Tensor) -> dict[str, Tensor]:
        """Pixels without the number of tiles, which the model does not accept."""
        return {name: value for name, value in super().plain_inputs(prompt, ids_BT).items() if name != "num_patches"}
