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
    """Counts what `adapter.encode` would make. Each size of an image is encoded once, as an empty picture."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._image = lru_cache(maxsize=1 << 17)(self._measure)
        self._small = lru_cache(maxsize=64)(self._smalls)

    def prompt(self, text: str, sizes: Sequence[Size]) -> Tokens:
        """`text` has a marker per image; sizes are (width, height) in pixels. ValueError as `encode`."""
        if not sizes:
            return Tokens(len(self._adapter.encode(text, [])), (), ())
        measured = [self._image(size) for size in sizes]
        smalls, like = self._small(len(sizes))
        length = len(self._adapter.encode(text, smalls, like=like))
        extra = sum(one[0] for one in measured) - len(sizes) * self._image(SMALL)[0]
        return Tokens(length + extra, tuple(one[1] for one in measured), tuple(one[2] for one in measured))

    def reply(self, text: str) -> int:
        """Tokens of a reply with the end of its turn."""
        return len(self._adapter.encode_reply(text))

    def _measure(self, size: Size) -> tuple[int, int, Frame]:
        """(tokens of a prompt of one image and nothing else, visual tokens, frame)."""
        found = self._adapter.encode(MARKER, [Image.new("RGB", size)])
        visual = sum(int((found.ids_P == image_id).sum()) for image_id in self._adapter.image_ids)
        return len(found), visual, found.frames[0]

    def _smalls(self, count: int) -> tuple[list[Image.Image], EncodedPrompt]:
        images = [Image.new("RGB", SMALL) for _ in range(count)]
        return images, self._adapter.encode(MARKER * count, images)
