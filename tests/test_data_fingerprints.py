"""Fingerprints: copies of a picture are found in any encoding, other pictures are not confused with it."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saccade.data import DataConfig, fingerprints, images, open_source
from saccade.data.fingerprints import PictureIndex, fingerprint, text_key
from saccade.types import Sample


def photo(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A smooth picture of many grays and colors."""
    coarse = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def filled(*images: Image.Image) -> PictureIndex:
    pictures = PictureIndex()
    for number, image in enumerate(images):
        pictures.add(fingerprint(image), str(number))
    return pictures


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: jpeg(image, 40),
        lambda image: image.resize((160, 120)),
        lambda image: image.resize((640, 480)),
        lambda image: jpeg(image.resize((200, 150)), 60),
    ],
)
def test_a_picture_is_found_again_after_scaling_and_compression(change) -> None:
    pictures = filled(*(photo(seed) for seed in range(40)))
    assert pictures.find(fingerprint(change(photo(7)))) == ["7"]


def test_another_picture_a_mirrored_one_and_one_of_another_shape_are_not_found() -> None:
    pictures = filled(*(photo(seed) for seed in range(40)))
    assert [name for seed in range(40, 240) for name in pictures.find(fingerprint(photo(seed)))] == []
    assert pictures.find(fingerprint(photo(3).transpose(Image.Transpose.FLIP_LEFT_RIGHT))) == []
    assert pictures.find(fingerprint(photo(3).resize((240, 240)))) == []


def test_equal_pixels_have_one_digest_and_are_kept_once() -> None:
    buffer = io.BytesIO()
    photo(1).save(buffer, "PNG")
    assert fingerprint(buffer.getvalue()).digest == fingerprint(photo(1)).digest != fingerprint(photo(2)).digest
    assert len(filled(photo(1), photo(1), photo(2))) == 2


def test_no_two_scenes_of_the_world_are_confused() -> None:
    images = [s.images[0] for s in open_source(DataConfig(source="world", task="count", limit=60))]
    pictures, seen = PictureIndex(), 0
    for number, image in enumerate(images):
        seen += len(pictures.find(fingerprint(image)))
        pictures.add(fingerprint(image), str(number))
    assert seen == 0


def test_no_two_pictures_of_math_vision_are_confused(real_data: Path) -> None:
    pictures = PictureIndex()
    files = sorted((real_data / "math_vision/images").iterdir())[:200]
    for file in files:
        pictures.add(fingerprint(file), file.name)
    found = 0
    for file in files[::10]:
        assert pictures.find(fingerprint(file)) == [file.name]
        with Image.open(file) as image:
            smaller = image.convert("RGB").resize((image.width * 2 // 3, image.height * 2 // 3))
        found += file.name in pictures.find(fingerprint(jpeg(smaller, 75)))
    assert found >= 19  # of 20; thin lines fade when a drawing is scaled down


def test_text_keys_ignore_spaces_case_and_markers() -> None:
    sample = Sample("1", (), "<image>How many\n red  cups?", 3, "count")
    assert text_key(sample) == text_key(Sample("2", (), "how many red cups?", 4, "count"))
    assert text_key(sample) != text_key(Sample("1", (), "How many blue cups?", 3, "count"))
    options = [Sample("1", (), "Which?", "A", "choice", {"options": [text]}) for text in ("1", "2")]
    assert text_key(options[0]) != text_key(options[1])


def test_an_animation_is_recognized_by_its_frames() -> None:
    buffer = io.BytesIO()
    photo(1).save(buffer, "GIF", save_all=True, append_images=[photo(2)])
    assert (fingerprint(buffer.getvalue()).animated, fingerprint(photo(1)).animated) == (True, False)


@pytest.mark.parametrize(("size", "alone"), [((2500, 2000), True), ((200, 200), False)])
def test_a_large_picture_is_compared_alone(
    size: tuple[int, int], alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of 25 million pixels at once took more than a gigabyte."""
    held: list[bool] = []

    def look(found: Any, image: Image.Image) -> None:
        with ThreadPoolExecutor(1) as pool:
            free = pool.submit(images._ALONE.acquire, blocking=False).result()
            if free:
                pool.submit(images._ALONE.release).result()
        held.append(not free)

    monkeypatch.setattr(fingerprints, "add_pixels", look)
    Image.new("RGBA", size).save(tmp_path / "a.webp", lossless=True, quality=0, method=0)
    fingerprint(tmp_path / "a.webp")
    assert held == [alone]
