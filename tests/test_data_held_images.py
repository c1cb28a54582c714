"""What is kept of images while they are in use: no more than their files, and no more than their pixels."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import pytest
from PIL import Image

from saccade.data import held_images
from saccade.data.images import ImageError, load_image


def saved(image: Image.Image, fmt: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def test_a_large_image_is_held_as_a_file_and_a_small_one_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_images, "LARGE_PIXELS", 100)
    for name, size in (("large.png", (11, 10)), ("small.png", (10, 10))):
        (tmp_path / name).write_bytes(saved(Image.effect_noise(size, 80)))
    large, small = (str(tmp_path / name) for name in ("large.png", "small.png"))
    before = (tmp_path / "large.png").read_bytes()
    loaded, held = zip(*(held_images.loaded_and_held((one,), None) for one in (large, small, before)), strict=True)
    assert held[0] == held[2] == (before,) and held[1][0] is loaded[1][0]
    loaded, held = held_images.loaded_and_held((small, small), None)  # large together
    for name in ("large.png", "small.png"):
        (tmp_path / name).unlink()
    assert all(isinstance(one, bytes) for one in held)
    assert [load_image(one).tobytes() for one in held] == [one.tobytes() for one in loaded]


@pytest.mark.parametrize(("kind", "more"), [("PNG", 0), ("GIF", 2 << 20), ("BMP", 0), ("BMP", 3 << 20), ("TIFF", 9)])
@pytest.mark.parametrize("inside", [False, True])
def test_a_file_far_larger_than_its_pixels_is_held_and_sent_as_png(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, more: int, inside: bool
) -> None:
    """Bytes behind the pixels take no space on the disk, but in every copy of the file."""
    monkeypatch.setattr(held_images, "LARGE_PIXELS", 100)
    monkeypatch.setattr(held_images, "_BESIDE", 400)
    path, content = tmp_path / "a", saved(Image.effect_noise((40, 30), 80).convert("RGB"), kind) + bytes(more)
    path.write_bytes(content)
    (image,), (held,) = held_images.loaded_and_held((content if inside else str(path),), None)
    assert isinstance(held, bytes) and (held == content) is (kind == "PNG")
    assert held_images.sendable(content) == held and len(held) < 5_000
    assert load_image(held).tobytes() == image.tobytes()


def test_a_compressed_file_with_holes_is_held_and_sent_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_images, "LARGE_PIXELS", 100)
    monkeypatch.setattr(held_images, "_BESIDE", 400)
    content = saved(Image.effect_noise((200, 200), 80).convert("RGB"), "JPEG")
    (image,), (held,) = held_images.loaded_and_held((content + bytes(50_000),), None)
    assert isinstance(held, bytes) and held.startswith(b"\x89PNG") and load_image(held).tobytes() == image.tobytes()
    assert held_images.sendable(content + bytes(50_000)) == held and held_images.sendable(content) == content


def test_a_file_far_smaller_than_as_png_is_held_as_it_is_and_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TIFF whose strips all are the same bytes, farther apart than PNG looks back."""
    strip, rows, strips = random.Random(3).randbytes(800 * 50), 50, 8
    lists = 8 + 2 + 9 * 12 + 4
    ones = {
        256: 800,
        257: rows * strips,
        258: 8,
        259: 1,
        262: 1,
        273: lists,
        277: 1,
        278: rows,
        279: lists + 4 * strips,
    }
    head = struct.pack("<2sHLH", b"II", 42, 8, 9)
    for tag, value in ones.items():
        head += struct.pack("<HHLL", tag, 4, strips if tag in (273, 279) else 1, value)
    content = head + bytes(4) + struct.pack("<L", lists + 8 * strips) * strips + struct.pack("<L", len(strip)) * strips
    content += strip
    for name, value in (("LARGE_PIXELS", 100), ("_BESIDE", 0), ("_MOST_AS_PNG", 100_000)):
        monkeypatch.setattr(held_images, name, value)
    (image,), (held,) = held_images.loaded_and_held((content,), None)
    assert held is content and image.size == (800, rows * strips)
    with pytest.raises(ImageError, match=r"bytes as PNG; save it as JPEG or PNG"):
        held_images.sendable(content)
