"""Opens any common image as upright 8-bit RGB, or refuses it by name."""

from __future__ import annotations

import base64
import ctypes
import hashlib
import io
import os
import re
import stat
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

from PIL import Image, ImageFile, UnidentifiedImageError

from saccade.data.image_limits import (
    ACROSS,
    Counted,
    check_bytes,
    check_exif,
    check_header,
    check_pixels,
    orientation_is_known,
    turn_of,
)
from saccade.disk import without_waiting
from saccade.faults import cut, on_a_line
from saccade.types import ImageSource

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
"""Of image files in a folder."""
WHITE = (255, 255, 255, 255)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that are opened (MPO as JPEG). Pillow knows more, and some start other programs (EPS: Ghostscript)."""
LONGEST_NAME = 1024
"""Characters of a name in a message."""
LONGEST_SIDE = 500_000
MAX_PIXELS = 25_000_000
"""Default limit of width * height: about 500 MB while such an image is decoded and resized for a model."""

MOST_IMAGES = 128
"""Images of a row."""
LARGE_PIXELS, STRIP = 4_000_000, 1 << 20
"""Pixels of an image that is decoded while no other such one is, and of the parts in which it is looked at."""
_ALONE = threading.RLock()

LARGEST_FILE = 512 << 20
"""Maximum bytes of a file: 25 million pixels without compression, of 16 bits in four channels, have 200 MB."""

warnings.filterwarnings("ignore", module=r"PIL\.")  # a TIFF may have a line for each of thousands of tags


class ImageError(ValueError):
    """An image that is missing, damaged, or in a mode without color meaning."""


_UNREADABLE = Exception
"""What Pillow raises for a damaged file: any error, as of a missing tag (TypeError) or a short structure."""


_BASE64_IMAGE = re.compile(
    r"(?:[/_]9j[/_]|iVBORw0KGgo|R0lGOD|UklGR|Qk|SUkq|TU0A)[A-Za-z0-9+/_\s-]{60,}+(?:={1,2}\s*+)?"
)
"""Base64 of a JPEG, PNG, GIF, WebP, BMP or TIFF file; the first of these would also be an absolute path."""
_IMAGE = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8[79]a|RIFF.{4}WEBP|BM.{4}\0{4}|II[*+]\0|MM\0[*+]|\0{3}\x0c(?:jP  |JXL )"
    rb"|P[1-6]\s+(?:#[^\n]*\n\s*)*\d+\s+\d+\s|.{4}ftyp(?:avif|avis|heic|heix|mif1)",
    re.DOTALL,
)
"""The first bytes of an image file, of a format that is not read too."""


def encoded_image(text: str) -> bytes | None:
    """The file in a data URI or in bare base64; None for a text that is neither. Raises ValueError."""
    if text[:5].lower() == "data:":
        head, _, body = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise ImageError(f"the image is a data URI {shown_name(head)!r}, expected data:image/...;base64,...")
    elif _BASE64_IMAGE.fullmatch(text := text.strip()):
        body = text
    else:
        return None
    try:
        packed = "".join(body.split())
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except ValueError as error:
        raise ImageError(f"the base64 of the image is damaged ({error})") from None


def is_picture(value: Any) -> bool:
    """Whether a cell of a row is an image or the name of an image file, or a list of these."""
    if isinstance(value, list | tuple):
        return is_picture(next(filter(_is_something, value), None))
    if isinstance(value, bytes):
        return _IMAGE.match(value) is not None
    if isinstance(value, str):
        named = value.lower().endswith(SUFFIXES) and len(value.split()) == 1
        return named or value.startswith("data:image/") or bool(_BASE64_IMAGE.fullmatch(value.strip()))
    if isinstance(value, dict) and "bytes" in value and any(value.get(key) for key in ("bytes", "path")):
        return True
    return isinstance(value, dict) and any(is_picture(one) for one in value.values() if isinstance(one, bytes))


def _is_something(value: Any) -> bool:
    return any(value.values()) if isinstance(value, dict) else value is not None


def load_image(source: ImageSource | Path, max_pixels: int | None = None) -> Image.Image:
    """The image as RGB: rotated by its EXIF tag, transparency on white, 16 bits scaled to 8, CMYK converted.

    The first frame of an animation is used, with a warning. Raises `ImageError`, a ValueError that names the file, when
    it is missing, truncated, not an image, of more than `max_pixels` (it may have changed since its size was read), or
    in a mode without color meaning (floating point).
    """
    image, animated = load_first(source, max_pixels)
    if animated:
        warnings.warn(f"{name_of(source)}: has several frames; the first is used", stacklevel=2)
    return image


def load_first(source: ImageSource | Path, max_pixels: int | None = None) -> tuple[Image.Image, bool]:
    """As `load_image`, but returns whether there are more frames instead of a warning; their number would take long
    to count."""
    if isinstance(source, Image.Image):
        return _rgb(source, "image in memory"), False
    image, turn, animated = _decoded(source, max_pixels)
    return image if turn is None else image.transpose(turn), animated


def _decoded(source: str | bytes | Path, max_pixels: int | None) -> tuple[Image.Image, Image.Transpose | None, bool]:
    """The image as RGB, how to turn it, and whether it has more frames. What the file had instead of RGB is freed
    before the image is turned."""
    name = name_of(source)
    with _open(source, name) as image, _alone(image):
        _refuse_size(image, name, max_pixels)
        try:
            check_pixels(image.fp, image.format)
            image.load()
            check_exif(image)
            turn = turn_of(image) if image.format != "TIFF" else None  # Pillow turned that one
            animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))  # MPO: a photo and previews
            return _rgb(image, name), turn, animated
        except ImageError:
            raise
        except _UNREADABLE as error:
            raise ImageError(f"{name}: the image is truncated or damaged ({error}); write the file again") from None


def image_size(source: ImageSource | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) in pixels after `load_image`, read only from the header; raises the same ValueError, also for
    more than `max_pixels` pixels."""
    if isinstance(source, Image.Image):
        return source.size
    if isinstance(source, bytes):
        return _read_size(source, max_pixels)
    try:
        found = os.stat(source)
    except (OSError, ValueError):
        return _read_size(source, max_pixels)  # says what is wrong
    return _size_of_file(str(source), max_pixels, found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=1 << 16)
def _size_of_file(path: str, max_pixels: int, *_stamp: int) -> tuple[int, int]:
    return _read_size(path, max_pixels)


def _read_size(source: str | bytes | Path, max_pixels: int) -> tuple[int, int]:
    name = name_of(source)
    with _open(source, name) as image:
        _refuse_size(image, name, max_pixels)
        _refuse_mode(image.mode, name)
        try:
            if image.format == "PNG" and not (image.fp and _pixels_come_last(image.fp)):  # tags may follow them
                with _alone(image):
                    image.load()
            check_exif(image)
            turned = not orientation_is_known(image) and turn_of(image) in ACROSS
        except _UNREADABLE as error:
            raise ImageError(f"{name}: the image is truncated or damaged ({error}); write the file again") from None
        return (image.height, image.width) if turned else image.size


def _pixels_come_last(file: IO[bytes]) -> bool:
    """Whether nothing but the end follows the pixels of a complete PNG; the position in the file stays."""
    before, pixels = file.tell(), False
    try:
        file.seek(8)
        while True:
            head = file.read(8)
            kind = head[4:]
            if kind == b"IEND" or len(head) < 8 or (pixels and kind != b"IDAT"):
                return kind == b"IEND"
            pixels = kind == b"IDAT"
            file.seek(int.from_bytes(head[:4]) + 4, os.SEEK_CUR)
    finally:
        file.seek(before)


def file_bytes(path: str | Path) -> bytes:
    """The content of an image file, unread as an image. Raises `ImageError` for what `load_image` refuses before it
    reads: a missing file, a folder, a pipe (for which it does not wait), a device, a file that is too large."""
    name = name_of(path)
    try:
        with _regular_file(path, name) as file:
            return file.read(LARGEST_FILE)
    except (OSError, ValueError) as error:
        raise _cannot_open(error, name) from None


def png_of(image: Image.Image, compress_level: int = 6) -> bytes:
    """The image as a PNG file. `compress_level`: 0 to 9 of zlib, 1 the fastest that compresses."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()


def image_sha(source: ImageSource | Path) -> str:
    """16 hex digits that identify the pixels, independent of the file format."""
    return sha_of(load_image(source))


def sha_of(image: Image.Image) -> str:
    """As `image_sha`, of a decoded image as it is."""
    found = hashlib.sha256()
    add_pixels(found, image)
    return found.hexdigest()[:16]


def add_pixels(found: Any, image: Image.Image) -> None:
    """Adds the size and the pixels of an image to a hash, without a copy of all of them."""
    found.update(f"{image.size}".encode())
    for _, strip in _strips(image):
        found.update(strip.tobytes())


def refuse_together(sources: Sequence[ImageSource | Path], max_pixels: int) -> None:
    """ImageError for more than MOST_IMAGES in a row, or images that have more than `max_pixels` together: all images of
    a prompt are in memory at once."""
    if len(sources) > MOST_IMAGES:
        raise ImageError(f"has {len(sources):,} images, expected {MOST_IMAGES} at most")
    if len(sources) == 1:
        return  # whose size is known
    pixels = sum(width * height for width, height in (image_size(one, max_pixels) for one in sources))
    if pixels > max_pixels:
        raise ImageError(
            f"the {len(sources)} images have {pixels:,} pixels together, expected {max_pixels:,} at most; make them "
            "smaller, or raise max_image_pixels"
        )


@contextmanager
def large_alone(sources: Sequence[ImageSource | Path]) -> Iterator[None]:
    """Within it, images of more than LARGE_PIXELS together are the only such ones in the process: decoding them, and
    resizing them for a model, takes several times their bytes. Raises `ImageError`."""
    if sum(width * height for width, height in (image_size(one, sys.maxsize) for one in sources)) <= LARGE_PIXELS:
        yield
        return
    with _ALONE:
        try:
            yield
        finally:
            _give_back()


def _give_back() -> None:
    """Returns what was freed to the system; else glibc keeps it for each thread that decoded a large image."""
    with suppress(AttributeError, OSError, TypeError):  # other C libraries
        ctypes.CDLL(None).malloc_trim(0)


def name_of(source: ImageSource | Path) -> str:
    """The name of the image in error messages."""
    if isinstance(source, str | Path):
        return shown_name(str(source))
    return f"image of {len(source)} bytes" if isinstance(source, bytes) else "image in memory"


def shown_name(name: str) -> str:
    """A name from a row for a message: printable, and cut where it is too long for a name."""
    return cut(on_a_line(name), LONGEST_NAME)


def format_of(content: bytes) -> str:
    """The format of an image file, lower case. Raises `ImageError`."""
    with _open(content, name_of(content)) as image:
        return (image.format or "img").lower()


@contextmanager
def _open(source: str | bytes | Path, name: str) -> Iterator[ImageFile.ImageFile]:
    """The opened file, its pixels not yet read."""
    with ExitStack() as opened:
        try:
            inside = nullcontext(io.BytesIO(source)) if isinstance(source, bytes) else _regular_file(source, name)
            file = cast(IO[bytes], Counted(opened.enter_context(inside)))
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            check_header(file)
            image = opened.enter_context(Image.open(file, formats=FORMATS))
            check_bytes(image, size)
        except UnidentifiedImageError:
            raise ImageError(f"{name}: not an image that can be opened; expected one of {', '.join(FORMATS)}") from None
        except _UNREADABLE as error:
            raise _cannot_open(error, name) from None
        yield image


@contextmanager
def _regular_file(path: str | Path, name: str) -> Iterator[IO[bytes]]:
    """A regular file of a bounded size. ImageError for anything else: a pipe is not waited for, no device is opened."""
    _refuse_file(Path(path).stat(), name)
    with open(path, "rb", opener=without_waiting) as file:
        _refuse_file(os.fstat(file.fileno()), name)  # another file may have been put there meanwhile
        yield file


def _refuse_file(found: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ImageError(f"{name}: is no regular file (a folder, pipe or device); expected an image file")
    if found.st_size > LARGEST_FILE:  # Pillow reads the image only, others may read the whole file
        raise ImageError(f"{name}: has {found.st_size:,} bytes, expected {LARGEST_FILE:,} at most; write it again")


def _cannot_open(error: Exception, name: str) -> ImageError:
    if isinstance(error, ImageError):
        return error
    if isinstance(error, FileNotFoundError):
        return ImageError(f"{name}: there is no such image file")
    hint = "" if isinstance(error, OSError) else "; write the file again"
    return ImageError(f"{name}: the image cannot be opened ({getattr(error, 'strerror', None) or error}){hint}")


def _alone(image: Image.Image) -> AbstractContextManager[Any]:
    return _ALONE if image.width * image.height > LARGE_PIXELS else nullcontext()


def _refuse_size(image: Image.Image, name: str, max_pixels: int | None) -> None:
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise ImageError(
            f"{name}: has {image.width} x {image.height} pixels, expected {max_pixels:,} at most; "
            "make it smaller, or raise max_image_pixels"
        )
    if max(image.size) > LONGEST_SIDE:  # each row of pixels takes memory of its own
        got = f"{image.width} x {image.height} pixels"
        raise ImageError(f"{name}: has {got}, expected {LONGEST_SIDE:,} at most on each side; cut it")


def _refuse_mode(mode: str, name: str) -> None:
    if mode == "F":
        raise ImageError(f"{name}: contains floating point numbers, expected colors; convert it to 8 bits first")


def _rgb(image: Image.Image, name: str) -> Image.Image:
    _refuse_mode(image.mode, name)
    if image.mode.startswith("I"):
        return _eight_bits(image, name)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        found = Image.new("RGB", image.size)
        for top, strip in _strips(image):  # several copies of all of it would take a gigabyte
            colors = strip.convert("RGBA")
            found.paste(Image.alpha_composite(Image.new("RGBA", colors.size, WHITE), colors).convert("RGB"), (0, top))
        return found
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The place and the pixels of parts of an image, from top to bottom."""
    rows = max(1, STRIP // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """16-bit gray values as 8 bits: Pillow's conversion clips everything above 255 to white. Where all values are below
    256 they are 8 bits in a wider file, which scaling would make black."""
    import numpy as np  # not above: recipes import this module

    def strips_HW() -> Iterator[tuple[int, Any]]:
        return ((top, np.asarray(strip)) for top, strip in _strips(image))

    ends = [(int(pixels_HW.min(initial=0)), int(pixels_HW.max(initial=0))) for _, pixels_HW in strips_HW()]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if low < 0 or high > 0xFFFF:
        raise ImageError(f"{name}: has gray values from {low:,} to {high:,}, expected 0 to 65,535 (16 bits); scale it")
    found = Image.new("RGB", image.size)
    for top, pixels_HW in strips_HW():
        gray = (pixels_HW // 256 if high > 255 else pixels_HW).astype(np.uint8)
        found.paste(Image.fromarray(gray).convert("RGB"), (0, top))
    return found
