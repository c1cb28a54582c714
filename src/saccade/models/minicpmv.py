"""Adapter of MiniCPM-V 4.6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from saccade.models.adapter import EncodedPrompt, ImageLimits, Sharing
from saccade.models.chat import ChatAdapter, Pixels


class MiniCPMVAdapter(ChatAdapter):
    """An image becomes a thumbnail and, if it is large, rows and columns of slices, each with its own aspect ratio. The
    language model is that of Qwen3.5 with one position axis: linear-attention layers have a state, so prompts are
    shared through the family's own cache. Boxes are 0-1000 of the whole image ("thousand"; its authors in issue 982 of
    OpenBMB/MiniCPM-V: `<box>x1 y1 x2 y2</box>`).

    Pixels are the patches of all slices of a prompt side by side, (1, 3, patch, pixels), so prompts are concatenated on
    the last axis.
    """

    placeholder = image_token = "<|image_pad|>"
    end = "<|im_end|>"
    extra_stop_tokens = ("<|endoftext|>",)
    reserved_tokens = (
        "<|image_pad|>",
        "<|video_pad|>",
        "<image>",
        "</image>",
        "<slice>",
        "</slice>",
        "<image_id>",
        "</image_id>",
        "<|im_start|>",
    )
    pixel_names = ("pixel_values", "target_sizes", "grids")
    projector = ("model.merger.",)
    tower = ("vision_tower.",)
    sharing: Sharing = "two_phase"

    def read_images(self, images: Sequence[Image.Image]) -> Pixels:
        """`target_sizes` (slices, 2) are patches down and across, `grids` (images, 2) rows and columns of slices."""
        out = self.image_processor(images=list(images), return_tensors="pt")
        return {name: torch.as_tensor(out[name]) for name in self.pixel_names}

    def image_settings(self, limits: ImageLimits) -> dict[str, Any]:
        """Most slices; one means the thumbnail alone. Slices keep their aspect ratio, so their sizes are rounded."""
        side, most = self.image_processor.scale_resolution, self.image_processor.max_slice_nums
        per_slice = (side // self.config.vision_config.patch_size) ** 2 // 16
        if limits.min_pixels is not None:
            self.refuse_limit("min_pixels", limits.min_pixels, "keeps the size of a small image")
        if limits.max_pixels is not None:
            most = min(most, limits.max_pixels // side**2)
            if not most:
                self.refuse_limit("max_pixels", limits.max_pixels, f"has slices of {side**2} pixels")
        if limits.max_visual_tokens is not None:
            slices = limits.max_visual_tokens // per_slice
            if not slices:
                self.refuse_limit("max_visual_tokens", limits.max_visual_tokens, f"has {per_slice} tokens in a slice")
            most = min(most, max(slices - 1, 1))
        return {"max_slice_nums": most}

    def _per_image(self, pixels: Pixels) -> list[tuple[int, int, list[list[int]]]]:
        """(rows, columns, patches down and across of the thumbnail and of each slice) per image."""
        sizes = iter(pixels["target_sizes"].tolist())
        return [(r, c, [next(sizes) for _ in range(1 + r * c)]) for r, c in pixels["grids"].tolist()]

    def placeholder_texts(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[str]:
        merged = 4 if self.image_processor.downsample_mode == "4x" else 16
        texts = []
        for number, (rows, columns, sizes) in enumerate(self._per_image(pixels)):
            thumbnail, *slices = (self.image_token * (h * w // merged) for h, w in sizes)
            marked = [f"<slice>{one}</slice>" for one in slices]
            lines = ("".join(marked[row * columns : (row + 1) * columns]) for row in range(rows))
            prefix = f"<image_id>{number}</image_id>" if self.image_processor.use_image_id else ""
            texts.append(f"{prefix}<image>{thumbnail}</image>" + "\n".join(lines))
        return texts

    def input_sizes(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[tuple[int, int]]:
        """All slices together, or the thumbnail where there are none."""
        patch = self.config.vision_config.patch_size
        last = ((max(r, 1), max(c, 1), sizes[-1]) for r, c, sizes in self._per_image(pixels))
        return [(columns * w * patch, rows * h * patch) for rows, columns, (h, w) in last]

    def join_pixels(self, prompts: Sequence[EncodedPrompt]) -> Pixels:
        with_images = [p for p in prompts if p.pixels]
        names = with_images[0].pixels if with_images else ()
        axis = {"pixel_values": -1}
        return {name: torch.cat([p.pixels[name] for p in with_images], axis.get(name, 0)) for name in names}

    def image_features(self, model: Any, pixels: Pixels, prompts: Sequence[EncodedPrompt]) -> Sequence[Tensor]:
        out = model.model.get_image_features(pixels["pixel_values"], pixels["target_sizes"], return_dict=True)
        per_slice = iter(out.pooler_output)
        return [torch.cat([next(per_slice) for _ in p.pixels["target_sizes"]]) for p in prompts]

    def plain_inputs(self, prompt: EncodedPrompt, ids_BT: Tensor) -> dict[str, Tensor]:
        """Pixels without the grids, which the model does not accept."""
        return {name: value for name, value in super().plain_inputs(prompt, ids_BT).items() if name != "grids"}
