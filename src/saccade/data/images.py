"""Images as people have them, opened as upright 8-bit RGB, or refused by name."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from saccade.types import ImageSource

WHITE = (255, 255, 255, 255)


class ImageError(ValueError):
    """An image that is missing, damaged, or of a kind without a colour meaning."""


_UNREADABLE = (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError)


def load_image(source: ImageSource | Path) -> Image.Image:
    """The image as RGB: turned upright by its EXIF tag, transparency on white, 16 bits scaled to 8, CMYK converted.

    Of an animation the first frame is taken, with a warning. Raises ValueError that names the file when it is missing,
    cut off, no image, or of a kind without a colour meaning (floating point); it is an `ImageError`.
    """
    image, frames = load_first(source)
    if frames > 1:
        warnings.warn(f"{name_of(source)}: has {frames} frames; the first is used", stacklevel=2)
    return image


def load_first(source: ImageSource | Path) -> tuple[Image.Image, int]:
    """As `load_image`, but with the number of frames in place of a warning."""
    if isinstance(source, Image.Image):
        return _rgb(source, "image in memory"), 1
    name = name_of(source)
    with _open(source, name) as image:
        try:
            image.load()
            upright = ImageOps.exif_transpose(image)
            frames = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))  # MPO: a photo and its previews
        except _UNREADABLE as error:
            raise ImageError(f"{name}: the image is cut off or damaged ({error}); write the file anew") from None
        return _rgb(upright, name), frames


def image_size(source: ImageSource | Path) -> tuple[int, int]:
    """(width, height) in pixels after `load_image`, read from the header alone; raises the same ValueError."""
    if isinstance(source, Image.Image):
        return source.size
    with _open(source, name_of(source)) as image:
        try:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        except _UNREADABLE as error:
            name = name_of(source)  # of PNG, EXIF may stand behind the pixels, so all of it is read
            raise ImageError(f"{name}: the image is cut off or damaged ({error}); write the file anew") from None
        return (image.height, image.width) if turned else image.size


def image_sha(source: ImageSource | Path) -> str:
    """16 hex digits that name the pixels, whatever file they came in."""
    image = load_image(source)
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:16]


def name_of(source: ImageSource | Path) -> str:
    """What an error message calls the image."""
    if isinstance(source, str | Path):
        return str(source)
    return f"image of {len(source)} bytes" if isinstance(source, bytes) else "image in memory"


def _open(source: str | bytes | Path, name: str) -> Image.Image:
    """The opened file, its pixels not yet read."""
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except FileNotFoundError:
        raise ImageError(f"{name}: there is no such image file") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image that Pillow can open; expected PNG, JPEG, WebP or the like") from None
    except _UNREADABLE as error:
        raise ImageError(f"{name}: the image does not open ({error})") from None


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise ImageError(f"{name}: holds floating point numbers, expected colours; convert it to 8 bits first")
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, WHITE), colours).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _eight_bits(pixels_HW: np.ndarray) -> np.ndarray:
    """Grey values of 16 bits as 8: Pillow's own conversion cuts everything above 255 to white."""
    wide = pixels_HW.dtype != np.int32 or pixels_HW.max(initial=0) > 255
    return np.clip(pixels_HW // 256 if wide else pixels_HW, 0, 255).astype(np.uint8)
