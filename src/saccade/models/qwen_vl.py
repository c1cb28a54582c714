"""Adapter of Qwen2-VL and Qwen2.5-VL: tokenizer + image processor, no combined processor (which needs torchvision)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from saccade.models.adapter import EncodedPrompt
from saccade.types import Frame, FrameName

MARKER = "<image>"
PLACEHOLDER = "<|image_pad|>"
NEVER_SAID = (PLACEHOLDER, "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>")
"""Tokens that no reply may hold; nor may a prompt's text, which may not end the turn either."""
RESERVED = (*NEVER_SAID, "<|im_end|>")


class QwenVLAdapter:
    """Encodes prompts as the family's own processor does; the test suite holds ids and pixels against it."""

    def __init__(self, tokenizer: Any, image_processor: Any, config: Any, frame: FrameName) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.frame = frame
        self.image_backend = type(image_processor).__name__
        self.merge = config.vision_config.spatial_merge_size
        self.patch = config.vision_config.patch_size
        self.image_id = config.image_token_id
        self._end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.banned_ids = tuple(tokenizer.convert_tokens_to_ids(t) for t in NEVER_SAID)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        ends = (self._end, self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids("<|endoftext|>"))
        return tuple(dict.fromkeys(int(e) for e in ends if e is not None))

    def encode(self, text: str, images: Sequence[Image.Image], like: EncodedPrompt | None = None) -> EncodedPrompt:
        """Encode the user's turn; `like` is an encoded prompt with the same images, whose pixels are taken over.

        Raises ValueError when markers and images differ in number or reserved tokens appear.
        """
        pieces = text.split(MARKER)
        if len(pieces) - 1 != len(images):
            raise ValueError(f"prompt has {len(pieces) - 1} '{MARKER}' markers but {len(images)} images: {text[:80]!r}")
        for token in RESERVED:
            if token in text:
                raise ValueError(f"prompt holds the reserved token {token}; remove it from the data: {text[:80]!r}")
        content: list[dict[str, str]] = []
        for i, piece in enumerate(pieces):
            if i:
                content.append({"type": "image"})
            if piece:
                content.append({"type": "text", "text": piece})
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        pixels, shas = self._pixels(images) if like is None else (like.pixels, like.image_shas)
        grids = pixels["image_grid_thw"].tolist() if pixels else []
        parts = chat.split(PLACEHOLDER)
        counts = [int(h * w) // self.merge**2 for _, h, w in grids]
        chat = "".join(part + PLACEHOLDER * n for part, n in zip(parts, [*counts, 0], strict=True))
        ids_P = torch.tensor(self.tokenizer(chat, add_special_tokens=False).input_ids, dtype=torch.long)
        positions_3P, following = self._positions(ids_P, grids)
        frames = tuple(
            Frame(self.frame, image.size, (int(w) * self.patch, int(h) * self.patch))
            for image, (_, h, w) in zip(images, grids, strict=True)
        )
        key = hashlib.sha256(ids_P.numpy().tobytes() + "".join(shas).encode()).hexdigest()[:16]
        return EncodedPrompt(ids_P, positions_3P, following, pixels, shas, frames, key)

    def continue_with(self, prompt: EncodedPrompt, text: str) -> EncodedPrompt:
        extra = torch.tensor(self.tokenizer(text, add_special_tokens=False).input_ids, dtype=torch.long)
        new = torch.arange(prompt.next_position, prompt.next_position + len(extra)).expand(3, -1)
        ids_P = torch.cat([prompt.ids_P, extra])
        key = hashlib.sha256(prompt.prompt_id.encode() + extra.numpy().tobytes()).hexdigest()[:16]
        return EncodedPrompt(
            ids_P,
            torch.cat([prompt.positions_3P, new], dim=1),
            prompt.next_position + len(extra),
            prompt.pixels,
            prompt.image_shas,
            prompt.frames,
            key,
        )

    def encode_reply(self, text: str) -> list[int]:
        """See `Adapter.encode_reply`. ValueError for a reserved token: an image placeholder would ask for an image."""
        for token in RESERVED:
            if token in text:
                raise ValueError(f"reply text holds the reserved token {token}; remove it from the data: {text[:80]!r}")
        return [*self.tokenizer(text, add_special_tokens=False).input_ids, self._end]

    def decode(self, ids: Sequence[int]) -> str:
        stops = set(self.stop_ids)
        return self.tokenizer.decode([i for i in ids if i not in stops], skip_special_tokens=False)

    def vision(self, model: Any, prompts: Sequence[EncodedPrompt]) -> tuple[Tensor, ...]:
        """Features (V, D) per prompt in order; a text-only prompt gets an empty tensor."""
        device = model.device
        with_images = [p for p in prompts if p.pixels]
        if not with_images:
            return tuple(torch.empty(0, model.config.text_config.hidden_size, device=device) for _ in prompts)
        grids = torch.cat([p.pixels["image_grid_thw"] for p in with_images])
        values = torch.cat([p.pixels["pixel_values"] for p in with_images]).to(device)
        out = model.model.get_image_features(values, grids.to(device), return_dict=True)
        per_image = iter(out.pooler_output)
        empty = out.pooler_output[0][:0]
        return tuple(torch.cat([next(per_image) for _ in p.frames]) if p.frames else empty for p in prompts)

    def parts(self, model: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
        out: dict[str, list[tuple[str, nn.Parameter]]] = {"vision": [], "projector": [], "language": []}
        for name, parameter in model.named_parameters():
            part = "language" if "visual." not in name else "projector" if "visual.merger." in name else "vision"
            out[part].append((name, parameter))
        return out

    def _pixels(self, images: Sequence[Image.Image]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        if not images:
            return {}, ()
        shas = tuple(hashlib.sha256(repr(i.size).encode() + i.tobytes()).hexdigest()[:16] for i in images)
        out = self.image_processor(images=list(images), return_tensors="pt")
        return {k: out[k] for k in ("pixel_values", "image_grid_thw")}, shas

    def _positions(self, ids_P: Tensor, grids: list[list[int]]) -> tuple[Tensor, int]:
        """M-RoPE positions (Qwen2-VL, arXiv:2409.12191, section 2.1): text advances all three axes together; an image
        keeps time fixed, counts rows and columns of merged patches, and the text after it goes on from the largest + 1.
        """
        is_image = (ids_P == self.image_id).tolist()
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
