"""Adapter of LLaVA-OneVision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution

from saccade.models.adapter import EncodedPrompt, ImageLimits
from saccade.models.chat import ChatAdapter, Pixels


class LlavaOnevisionAdapter(ChatAdapter):
    """A single image becomes a thumbnail and the tiles of a padded canvas. Features of the padding are dropped, and a
    newline vector follows each row. With several images in a prompt, each becomes one tile, padded to a square. Boxes
    are 0-1 of each side of the whole image ("unit", as in lmms-eval's RefCOCO prompt).

    Pixels are (images, tiles, 3, H, W); images with fewer tiles are padded with zeros, which the model ignores.
    """

    placeholder = image_token = "<image>"
    end = "<|im_end|>"
    extra_stop_tokens = ("<|endoftext|>",)
    reserved_tokens = ("<image>", "<video>", "<|im_start|>")
    pixel_names = ("pixel_values", "image_sizes", "batch_num_images")
    projector = ("multi_modal_projector.", "image_newline")
    tower = ("vision_tower.",)

    def __init__(self, *of_family: Any) -> None:
        super().__init__(*of_family)
        config = self.config
        self.side = config.vision_config.image_size
        self.per_side = self.side // config.vision_config.patch_size
        self.max_tiles = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))

    def image_settings(self, limits: ImageLimits) -> dict[str, Any]:
        """The canvases, (height, width), that are within the limits; the model reads the same list."""
        least, most = limits.min_pixels or 0, limits.max_pixels or math.inf
        tokens = limits.max_visual_tokens or math.inf
        canvases = [list(one) for one in self.config.image_grid_pinpoints]
        kept = [one for one in canvases if least <= one[0] * one[1] <= most and self._tokens(one[1], one[0]) <= tokens]
        if not kept:
            given = {key: value for key, value in asdict(limits).items() if value is not None}
            sizes = [height * width for height, width in canvases]
            least_tokens = min(self._tokens(width, height) for height, width in canvases)
            raise ValueError(
                f"model: got {given}, but llava_onevision has canvases of {min(sizes)} to {max(sizes)} pixels, the "
                f"smallest with {least_tokens} visual tokens, and none is within these limits; change or remove them"
            )
        self.config.image_grid_pinpoints = kept
        return {"image_grid_pinpoints": kept}

    def read_images(self, images: Sequence[Image.Image]) -> Pixels:
        out = self.image_processor(images=[list(images)], return_tensors="pt")
        return {name: torch.as_tensor(out[name]) for name in self.pixel_names}

    def placeholder_texts(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[str]:
        if len(images) > 1:
            return [self.image_token * (self.per_side**2 + 1)] * len(images)
        return [self.image_token * self._tokens(image.width, image.height) for image in images]

    def _canvas(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in pixels that the tiles of an image cover."""
        rows, columns = select_best_resolution((height, width), self.config.image_grid_pinpoints)
        return columns, rows

    def _tokens(self, width: int, height: int) -> int:
        """Visual tokens of a single image: the thumbnail, then the feature rows without padding, each with a newline;
        interpolated down to at most `max_tiles` tiles (LLaVA-OneVision, arXiv:2408.03326, section 3.2; rounding as in
        transformers)."""
        columns, rows = (size // self.side * self.per_side for size in self._canvas(width, height))
        if width / height > columns / rows:
            rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
        else:
            columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
        shrink = math.sqrt(rows * columns / (self.max_tiles * self.per_side**2))
        if shrink > 1.1:
            rows, columns = int(rows // shrink), int(columns // shrink)
        return self.per_side**2 + rows * (columns + 1)

    def input_sizes(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[tuple[int, int]]:
        """The image at the scale at which it fills the canvas, without the padding."""
        sizes = []
        for image in images:
            width, height = image.size
            across, down = self._canvas(width, height) if len(images) == 1 else (self.side, self.side)
            scale = min(across / width, down / height)
            sizes.append((min(math.ceil(width * scale), across), min(math.ceil(height * scale), down)))
        return sizes

    def join_pixels(self, prompts: Sequence[EncodedPrompt]) -> Pixels:
        """Images with fewer tiles are padded to the largest number of tiles."""
        with_images = [p for p in prompts if p.pixels]
        most = max((p.pixels["pixel_values"].shape[1] for p in with_images), default=0)
        joined = {name: torch.cat([p.pixels[name] for p in with_images]) for name in self.pixel_names[1:] if most}
        if with_images:
            tiles = (p.pixels["pixel_values"] for p in with_images)
            joined["pixel_values"] = torch.cat([F.pad(t, (0,) * 7 + (most - t.shape[1],)) for t in tiles])
        return joined

    def image_features(self, model: Any, pixels: Pixels, prompts: Sequence[EncodedPrompt]) -> Sequence[Tensor]:
        out = model.model.get_image_features(
            pixels["pixel_values"],
            pixels["image_sizes"],
            batch_num_images=pixels["batch_num_images"],
            return_dict=True,
        )
        per_image = iter(out.pooler_output)
        return [torch.cat([next(per_image) for _ in p.frames]) for p in prompts]
