"""The files of images while they are in use: as they are, or as PNG where they are far larger than their pixels."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from saccade.data.images import LARGE_PIXELS, ImageError, file_bytes, image_size, load_image, name_of, png_of
from saccade.types import ImageSource

_PACKED = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF")
"""How files of JPEG, PNG, GIF and WebP begin, which are compressed, and which chat servers read."""
_HOLE = bytes(1024)
_BESIDE, _MOST_AS_PNG = 1 << 20, 8 << 20


def loaded_and_held(
    sources: Sequence[ImageSource], max_pixels: int | None
) -> tuple[tuple[Image.Image, ...], tuple[ImageSource, ...]]:
    """The images, and what `load_image` makes them of again: where they have more than LARGE_PIXELS together, files in
    memory, which take less than the pixels, whatever becomes of those on disk. Raises `ImageError`."""
    images, held = list[Image.Image](), list[ImageSource]()
    pixels = [width * height for width, height in (image_size(source, sys.maxsize) for source in sources)]
    for source, count in zip(sources, pixels, strict=True):
        large = sum(pixels) > LARGE_PIXELS and not isinstance(source, Image.Image)
        if large and isinstance(source, str) and _fits(os.stat(source).st_size, count):
            source = file_bytes(source)
        images.append(load_image(source, max_pixels))
        held.append(images[-1] if not large else _smaller(source, images[-1]))
    return tuple(images), tuple(held)


def sendable(content: bytes) -> bytes:
    """The file of an image for a chat server: itself, or PNG of what `load_image` gives where it is of a format that
    servers do not read, or larger than its pixels. Raises `ImageError`, also for a file that is far larger as PNG."""
    width, height = image_size(content, sys.maxsize)
    if _is_packed(content, width * height):
        return content
    png = png_of(load_image(content), 1)
    if len(png) > max(_MOST_AS_PNG, 3 * len(content)):
        raise ImageError(f"{name_of(content)}: has {len(png):,} bytes as PNG; save it as JPEG or PNG")
    return png


def most_sendable(path: Path) -> int:
    """Bytes that `sendable` makes of a file at most; 0 where there is none."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        begin, size = file.read(4), os.fstat(file.fileno()).st_size
    return size if begin.startswith(_PACKED) and size <= _BESIDE else max(_MOST_AS_PNG, 3 * size)


def _smaller(source: ImageSource, image: Image.Image) -> ImageSource:
    """The file of a large image, or PNG of it if that is smaller and the file larger than compressed ones are."""
    pixels = image.width * image.height
    if isinstance(source, bytes) and (len(source) <= _BESIDE or _is_packed(source, pixels)):
        return source
    png = png_of(image, 1)
    return source if isinstance(source, bytes) and len(source) <= len(png) else png


def _is_packed(content: bytes, pixels: int) -> bool:
    """Whether a file is as small as compressed ones are, and has no long runs of zeros: holes take no space on the
    disk."""
    zeros = content.count(_HOLE) * len(_HOLE) if len(content) > _BESIDE else 0
    return content.startswith(_PACKED) and _fits(len(content), pixels) and zeros < len(content) // 4


def _fits(size: int, pixels: int) -> bool:
    return size <= 3 * pixels + _BESIDE
