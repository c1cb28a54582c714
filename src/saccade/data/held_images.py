"""The files of images while they are in use: as they are, or as PNG where they are far larger than their pixels."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from PIL import Image

from saccade.data.images import LARGE_PIXELS, file_bytes, image_size, load_image
from saccade.types import ImageSource

_PACKED = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF")
"""How files of JPEG, PNG, GIF and WebP begin, which are compressed, and which chat servers read."""
_BESIDE = 1 << 20


def loaded_and_held(
    sources: Sequence[ImageSource], max_pixels: int | None
) -> tuple[tuple[Image.Image, ...], tuple[ImageSource, ...]]:
    """The images, and what `load_image` makes them of again: of those of more than LARGE_PIXELS a file in memory, which
    takes less than the pixels, whatever becomes of the one on disk. Raises `ImageError`."""
    images, held = list[Image.Image](), list[ImageSource]()
    for source in sources:
        width, height = image_size(source, sys.maxsize)
        large = width * height > LARGE_PIXELS and not isinstance(source, Image.Image)
        if large and isinstance(source, str) and _fits(os.stat(source).st_size, width * height):
            source = file_bytes(source)
        images.append(load_image(source, max_pixels))
        packed = isinstance(source, bytes) and _is_packed(source, width * height)
        held.append(source if packed else _png(images[-1]) if large else images[-1])
    return tuple(images), tuple(held)


def sendable(content: bytes) -> bytes:
    """The file of an image for a chat server: itself, or PNG of what `load_image` gives where it is of a format that
    servers do not read, or larger than its pixels. Raises `ImageError`."""
    width, height = image_size(content, sys.maxsize)
    return content if _is_packed(content, width * height) else _png(load_image(content))


def _fits(size: int, pixels: int) -> bool:
    return size <= 3 * pixels + _BESIDE


def _is_packed(content: bytes, pixels: int) -> bool:
    return content.startswith(_PACKED) and _fits(len(content), pixels)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
