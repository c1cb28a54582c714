"""How many tokens a prompt has, without its pixels: what an image costs depends on its size alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from saccade.models.adapter import Adapter, EncodedPrompt
from saccade.types import Frame

MARKER = "<image>"
SMALL = (64, 64)
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of one prompt."""

    total: int
    images: tuple[int, ...]
    """Visual tokens of each image."""
    frames: tuple[Frame, ...]


class TokenCounter:
    """Counts what `adapter.encode` would make. Each size of an image is encoded once, as an empty picture, for each
    number of images in a prompt: some families give an image fewer tokens when there are others.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._image = lru_cache(maxsize=1 << 17)(self._measure)
        self._smalls = lru_cache(maxsize=64)(self._only_smalls)

    def prompt(self, text: str, sizes: Sequence[Size]) -> Tokens:
        """`text` has a marker per image; sizes are (width, height) in pixels. ValueError as `encode`."""
        if not sizes:
            return Tokens(len(self._adapter.encode(text, [])), (), ())
        measured = [self._image(size, len(sizes)) for size in sizes]
        smalls, like, _ = self._smalls(len(sizes))
        length = len(self._adapter.encode(text, smalls, reuse_images_from=like)) + sum(
            extra for extra, _, _ in measured
        )
        return Tokens(length, tuple(visual for _, visual, _ in measured), tuple(frame for _, _, frame in measured))

    def reply(self, text: str) -> int:
        """Tokens of a reply with the end of its turn."""
        return len(self._adapter.encode_reply(text))

    def _measure(self, size: Size, count: int) -> tuple[int, int, Frame]:
        """(tokens more than a small image has, visual tokens, frame) of one of so many images."""
        smalls, like, each = self._smalls(count)
        found = self._adapter.encode(MARKER * count, [Image.new("RGB", size), *smalls[1:]])
        return len(found) - len(like), self._visual(found) - each * (count - 1), found.frames[0]

    def _only_smalls(self, count: int) -> tuple[list[Image.Image], EncodedPrompt, int]:
        """So many small images, their prompt without text, and the visual tokens of one of them."""
        images = [Image.new("RGB", SMALL) for _ in range(count)]
        found = self._adapter.encode(MARKER * count, images)
        return images, found, self._visual(found) // count

    def _visual(self, prompt: EncodedPrompt) -> int:
        return sum(int((prompt.ids_P == image_id).sum()) for image_id in self._adapter.image_ids)
