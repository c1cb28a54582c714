"""Adapter of Qwen2-VL and Qwen2.5-VL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from saccade.models.adapter import EncodedPrompt, ImageLimits
from saccade.models.chat import ChatAdapter, Pixels
from saccade.types import FrameName


class QwenVLAdapter(ChatAdapter):
    """Images become grids of patches, merged `merge` x `merge` to a visual token; positions have three axes."""

    placeholder = image_token = "<|image_pad|>"
    end = "<|im_end|>"
    extra_stop_tokens = ("<|endoftext|>",)
    reserved_tokens = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>")
    pixel_names = ("pixel_values", "image_grid_thw")
    projector = ("visual.merger.",)
    tower = ("visual.",)

    def __init__(self, tokenizer: Any, image_processor: Any, config: Any, frame: FrameName) -> None:
        super().__init__(tokenizer, image_processor, config, frame)
        self.merge = config.vision_config.spatial_merge_size
        self.patch = config.vision_config.patch_size

    def pixel_bounds(self, limits: ImageLimits, copies: int = 1) -> dict[str, int]:
        """The fewest and most pixels of an image, times `copies`, as the image processor's `size` names them."""
        each = (self.patch * self.merge) ** 2
        low, high = (self.image_processor.size[key] // copies for key in ("shortest_edge", "longest_edge"))
        if limits.max_visual_tokens is not None:
            high = limits.max_visual_tokens * each
        if limits.max_pixels is not None:
            if limits.max_pixels < each:
                self.refuse_limit("max_pixels", limits.max_pixels, f"needs {each} pixels for one visual token")
            high = limits.max_pixels if limits.max_visual_tokens is None else min(high, limits.max_pixels)
        if limits.min_pixels is None:
            low = min(low, high)
        elif limits.min_pixels > high:
            self.refuse_limit("min_pixels", limits.min_pixels, f"has at most {high} pixels by the other limits")
        else:
            low = limits.min_pixels
        return {"shortest_edge": low * copies, "longest_edge": high * copies}

    def image_settings(self, limits: ImageLimits) -> dict[str, Any]:
        """Under both names that checkpoints have for them."""
        size = self.pixel_bounds(limits)
        return {"size": size, "min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}

    def placeholder_texts(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[str]:
        return [self.image_token * (int(h * w) // self.merge**2) for _, h, w in pixels["image_grid_thw"]]

    def input_sizes(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[tuple[int, int]]:
        return [(int(w) * self.patch, int(h) * self.patch) for _, h, w in pixels["image_grid_thw"]]

    def image_features(self, model: Any, pixels: Pixels, prompts: Sequence[EncodedPrompt]) -> Sequence[Tensor]:
        out = model.model.get_image_features(pixels["pixel_values"], pixels["image_grid_thw"], return_dict=True)
        per_image = iter(out.pooler_output)
        return [torch.cat([next(per_image) for _ in p.frames]) for p in prompts]

    def position_ids(self, positions_3BT: Tensor) -> Tensor:
        return positions_3BT

    def plain_inputs(self, prompt: EncodedPrompt, ids_BT: Tensor) -> dict[str, Tensor]:
        """With images, adds the token types, without which transformers silently uses one position axis."""
        inputs = super().plain_inputs(prompt, ids_BT)
        return inputs | {"mm_token_type_ids": (ids_BT == self.image_ids[0]).int()} if inputs else {}

    def positions(self, ids_P: Tensor, pixels: Pixels) -> tuple[Tensor, int]:
        """M-RoPE positions (Qwen2-VL, arXiv:2409.12191, section 2.1): text advances all three axes together; an image
        keeps time fixed and counts rows and columns of merged patches; the text after it continues at the largest
        position + 1."""
        is_image = (ids_P == self.image_ids[0]).tolist() if self.image_ids else [False] * len(ids_P)
        grids = pixels["image_grid_thw"].tolist() if pixels else []
        columns: list[Tensor] = []
        at, position, grid = 0, 0, iter(grids)
        while at < len(is_image):
            if is_image[at]:
                _, height, width = next(grid)
                h, w = height // self.merge, width // self.merge
                rows = torch.arange(h).repeat_interleave(w)
                columns.append(torch.stack([torch.zeros_like(rows), rows, torch.arange(w).repeat(h)]) + position)
                position += max(h, w)
                at += h * w
            else:
                end = at
                while end < len(is_image) and not is_image[end]:
                    end += 1
                columns.append(torch.arange(position, position + end - at).expand(3, -1))
                position += end - at
                at = end
        positions_3P = torch.cat(columns, dim=1)
        if positions_3P.shape[1] != len(ids_P):
            raise ValueError(
                f"{positions_3P.shape[1]} positions for {len(ids_P)} tokens: placeholders and grids differ"
            )
        return positions_3P, position
