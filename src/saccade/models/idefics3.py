"""Adapter of Idefics3 and SmolVLM, which share their image preprocessing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from saccade.models.adapter import EncodedPrompt, ImageLimits
from saccade.models.chat import ChatAdapter, Pixels

AROUND = "<fake_token_around_image>"
WHOLE = "<global-img>"
TILES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
"""Tile markers; the vocabulary has them for 6 x 6 tiles."""


class Idefics3Adapter(ChatAdapter):
    """An image is resized to a multiple of the tower's square input and cut into rows and columns of tiles, followed by
    the whole image as one more tile; a small image is only that one tile. The published training data has no
    coordinates, so the frame is 0-1 of each side ("unit"), which does not depend on tiles.

    The template opens the assistant's turn with `Assistant:` without a trailing space, so the first sampled token often
    starts with a space.

    Pixels are stored per tile, (tiles, 3, H, W); the model takes (prompts, tiles, 3, H, W).
    """

    placeholder = image_token = "<image>"
    end = "<end_of_utterance>"
    extra_stop_tokens = ("<|im_end|>", "<|end_of_text|>")
    reserved_tokens = ("<image>", AROUND, WHOLE, "<|im_start|>", "<|begin_of_text|>", *TILES)
    pixel_names = ("pixel_values", "pixel_attention_mask", "rows_and_columns")
    projector = ("connector.",)
    tower = ("vision_model.",)

    def __init__(self, *of_family: Any) -> None:
        super().__init__(*of_family)
        vision = self.config.vision_config
        self.per_tile = int((vision.image_size // vision.patch_size) ** 2 / self.config.scale_factor**2)

    def image_settings(self, limits: ImageLimits) -> dict[str, Any]:
        """Every image is resized to one longest edge, here a whole number of tiles: at most n x n of them, and the
        whole image as one more where n > 1."""
        tile = self.image_processor.max_image_size["longest_edge"]
        sides = self.image_processor.size["longest_edge"] // tile
        if limits.min_pixels is not None:
            self.refuse_limit("min_pixels", limits.min_pixels, "resizes every image to the same longest edge")
        if limits.max_pixels is not None:
            sides = min(sides, math.isqrt(limits.max_pixels) // tile)
            if not sides:
                self.refuse_limit("max_pixels", limits.max_pixels, f"has tiles of {tile**2} pixels")
        if limits.max_visual_tokens is not None:
            tiles = limits.max_visual_tokens // self.per_tile
            if not tiles:
                self.refuse_limit(
                    "max_visual_tokens", limits.max_visual_tokens, f"has {self.per_tile} tokens in a tile"
                )
            sides = min(sides, max(1, math.isqrt(tiles - 1)))
        return {"size": {"longest_edge": sides * tile}}

    def read_images(self, images: Sequence[Image.Image]) -> Pixels:
        """ValueError for an image with more tiles than the vocabulary has markers for."""
        out = self.image_processor(images=[list(images)], return_row_col_info=True, return_tensors="pt")
        grid_N2 = torch.tensor([*zip(out["rows"][0], out["cols"][0], strict=True)])
        if int(grid_N2.max()) > 6:
            raise ValueError(
                f"an image became {grid_N2.amax(0).tolist()} rows and columns of tiles, expected at most 6 of each; "
                "set model.max_pixels, or lower size.longest_edge in preprocessor_config.json"
            )
        return {
            "pixel_values": out["pixel_values"][0],
            "pixel_attention_mask": out["pixel_attention_mask"][0],
            "rows_and_columns": grid_N2,
        }

    def placeholder_texts(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[str]:
        tokens = self.image_token * self.per_tile
        whole = f"{AROUND}{WHOLE}{tokens}{AROUND}"
        texts = []
        for rows, columns in pixels["rows_and_columns"].tolist():
            lines = (
                "".join(f"{AROUND}<row_{row}_col_{column}>{tokens}" for column in range(1, columns + 1)) + "\n"
                for row in range(1, rows + 1)
            )
            texts.append("".join(lines) + ("\n" if rows else "") + whole)
        return texts

    def input_sizes(self, pixels: Pixels, images: Sequence[Image.Image]) -> list[tuple[int, int]]:
        height, width = pixels["pixel_values"].shape[-2:]
        return [(max(c, 1) * width, max(r, 1) * height) for r, c in pixels["rows_and_columns"].tolist()]

    def image_features(self, model: Any, pixels: Pixels, prompts: Sequence[EncodedPrompt]) -> Sequence[Tensor]:
        """All tiles of all prompts are one batch, each as a separate image."""
        out = model.model.get_image_features(
            pixels["pixel_values"][:, None], pixels["pixel_attention_mask"][:, None], return_dict=True
        )
        per_tile = iter(out.pooler_output)
        return [torch.cat([next(per_tile) for _ in p.pixels["pixel_values"]]) for p in prompts]

    def as_mm_outputs(self, features: Sequence[Tensor]) -> dict[str, Any] | None:
        """One tensor (tiles, V, D), as transformers accepts since 5.18; newer versions also accept a sequence."""
        present = [f.unflatten(0, (-1, self.per_tile)) for f in features if f.shape[0]]
        return {"image": BaseModelOutputWithPooling(pooler_output=torch.cat(present))} if present else None

    def plain_inputs(self, prompt: EncodedPrompt, ids_BT: Tensor) -> dict[str, Tensor]:
        if not prompt.pixels:
            return {}
        names = ("pixel_values", "pixel_attention_mask")
        return {name: torch.stack([prompt.pixels[name]] * len(ids_BT)) for name in names}
