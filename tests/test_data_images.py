"""Loading images of common kinds."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from saccade.data import DataConfig, open_source
from saccade.data import images as images_module
from saccade.data.images import ImageError, image_sha, image_size, large_alone, load_first, load_image


def saved(image: Image.Image, fmt: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def corners() -> Image.Image:
    """3 x 2 pixels: red at the top left, blue at the bottom right."""
    image = Image.new("RGB", (3, 2), "white")
    image.putpixel((0, 0), (255, 0, 0))
    image.putpixel((2, 1), (0, 0, 255))
    return image


def test_a_path_its_bytes_and_the_decoded_image_are_the_same_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(saved(corners()))
    assert image_sha(str(path)) == image_sha(path.read_bytes()) == image_sha(corners())
    assert load_image(str(path)).tobytes() == corners().tobytes()
    assert image_sha(corners()) != image_sha(corners().rotate(180))


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_rotated_upright_and_its_size_read_from_the_header(orientation: int, fmt: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(corners(), fmt, exif=exif)
    upright = load_image(data)
    assert upright.size == image_size(data) == ((3, 2) if orientation < 5 else (2, 3))
    places = {1: (0, 0), 2: (2, 0), 3: (2, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 2), 8: (0, 2)}
    assert upright.getpixel(places[orientation]) == (255, 0, 0)


KINDS = {1: "B3x", 2: "B3x", 3: "H2x", 4: "L", 6: "b3x", 7: "B3x", 8: "h2x", 9: "l", 13: "L", 99: "L"}


def exif(order: str, number: int, kind: int = 3, count: int = 1, tag: int = 0x0112) -> bytes:
    """EXIF with a long text, which it lacks, and the orientation."""
    value = struct.pack(order + KINDS[kind], number) if kind in KINDS else struct.pack(order + "L", 50)
    entry = struct.pack(order + "HHL", 0x010E, 2, 5) + struct.pack(order + "L", 58)
    entry += struct.pack(order + "HHL", tag, kind, count) + value
    ratio = struct.pack(order + ("d" if kind == 12 else "LL"), *([number] if kind == 12 else [2 * number, 2]))
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HLH", 42, 8, 2)
    return b"Exif\0\0" + (head + entry).ljust(50, b"\0") + ratio + b"text\0"


XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def written(fmt: str, tags: bytes, xmp: str = "") -> bytes:
    photo = Image.new("RGB", (7, 5))
    photo.putdata([(i * 7, 255 - i * 3, i * 5 % 256) for i in range(35)])
    if not fmt.startswith("PNG"):
        options = {"xmp": xmp.encode()} if xmp else {}
        return saved(photo, fmt, **{"lossless": True} if fmt == "WEBP" else {}, exif=tags, **options)
    plain = saved(photo, "PNG")
    more = b"".join([chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + xmp.encode())] if xmp else [])
    if "text" in fmt:
        profile = f"\nexif\n{len(tags):8}\n{tags.hex()}\n".encode()
        more += chunk(b"tEXt", b"Raw profile type exif\0" + profile) if tags else b""
    else:
        more += chunk(b"eXIf", tags[6:]) if tags else b""
    place = -12 if "behind" in fmt else 33
    return plain[:place] + more + plain[place:]


ALL = ("JPEG", "WEBP", "PNG", "PNG behind", "PNG text", "PNG text behind")


def is_turned_as_by_pillow(content: bytes) -> bool:
    with Image.open(io.BytesIO(content)) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    found = load_image(content)
    return found.tobytes() == expected.tobytes() and found.size == expected.size == image_size(content)


@pytest.mark.parametrize("fmt", [*ALL, "MPO"])
def test_every_orientation_turns_an_image_as_pillow_does(fmt: str) -> None:
    for number in range(10):
        for order in "<>":
            assert is_turned_as_by_pillow(written(fmt, exif(order, number)))
    if fmt != "MPO":
        for number in (0, 3, 6):
            for tags in (b"", exif("<", 8), exif(">", 8, tag=0x0111), exif("<", 8, 99), exif("<", 2, 2)):
                assert is_turned_as_by_pillow(written(fmt, tags, XMP % number))
    for kind in (*KINDS, 5, 10, 12):
        assert is_turned_as_by_pillow(written(fmt, exif(">", 6, kind)))
        assert is_turned_as_by_pillow(written(fmt, exif("<", 6, kind, 2)))
    for cut in range(16, 70, 6):
        assert is_turned_as_by_pillow(written("PNG", exif("<", 6)[:cut].ljust(20, b"\0")))


@pytest.mark.parametrize("fmt", ["JPEG", "WEBP", "PNG", "PNG behind", "PNG text"])
def test_no_more_of_exif_is_read_than_the_orientation(fmt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few megabytes of it can become gigabytes of objects."""
    for name in ("get_ifd", "tobytes", *(["load"] if fmt != "JPEG" else [])):  # of a JPEG Pillow reads the resolution
        monkeypatch.setattr(Image.Exif, name, None)
    assert load_image(content := written(fmt, exif("<", 6))).size == image_size(content) == (5, 7)


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    palette = clear.convert("P")
    palette.info["transparency"] = palette.getpixel((1, 1))
    for image in (load_image(saved(clear)), load_image(saved(clear.convert("LA"))), load_image(palette)):
        assert image.mode == "RGB"
        assert image.getpixel((1, 1)) == (255, 255, 255)
        assert image.getpixel((0, 0)) != (255, 255, 255)


def test_transparency_and_hashes_do_not_depend_on_the_parts_that_they_are_computed_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    colors = Image.fromarray(pixels)
    palette = colors.quantize(9)
    palette.info["transparency"] = 3
    for image in (colors, colors.convert("LA"), colors.convert("RGBa"), palette):
        whole = image.convert("RGBA")
        expected = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
        sha = hashlib.sha256(f"{expected.size}".encode() + expected.tobytes()).hexdigest()[:16]
        for strip in (1, 20, 63, 1 << 20):
            monkeypatch.setattr(images_module, "STRIP", strip)
            assert load_image(image).tobytes() == expected.tobytes() and image_sha(image) == sha


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "LARGE_PIXELS", 50)
    plain, now, most = images_module._rgb, [0], [0]

    def counted(image: Image.Image, name: str) -> Image.Image:
        now[0] += 1
        most[0] = max(most[0], now[0])
        time.sleep(0.01)
        now[0] -= 1
        return plain(image, name)

    def together(source: bytes) -> None:
        with large_alone([source, source]):
            load_image(source), load_image(source)

    monkeypatch.setattr(images_module, "_rgb", counted)
    with ThreadPoolExecutor(4) as workers:
        for act, size, expected in ((load_image, 8, 1), (together, 6, 1), (load_image, 4, 4)):
            most[0] = 0
            list(workers.map(act, [saved(Image.new("RGB", (size, size)))] * 8))
            assert most[0] == expected


def test_the_images_of_a_row_are_bounded_together(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(saved(Image.new("RGB", (10, 10))))
    turns = [{"from": "human", "value": "<image>" * 4 + "How many?"}, {"from": "gpt", "value": "1"}]
    row = {"image": ["a.png"] * 4, "conversations": turns}
    (tmp_path / "d.jsonl").write_text(json.dumps(row) + "\n")
    config = DataConfig(source="vlm_r1", path=tmp_path / "d.jsonl", max_image_pixels=400)
    assert len(next(iter(open_source(config))).images) == 4
    with pytest.raises(ValueError, match=r"d\.jsonl:1: the 4 images have 400 pixels together, expected 399 at most"):
        open_source(config.model_copy(update={"max_image_pixels": 399}))
    row["image"], turns[0]["value"] = ["a.png"] * 129, "<image>" * 129
    (tmp_path / "d.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"d\.jsonl:1: has 129 images, expected 128 at most"):
        open_source(config.model_copy(update={"max_image_pixels": 99_999}))


@pytest.mark.parametrize("kind", ["GIF", "BMP", "PPM", "TIFF", "JPEG"])
def test_a_file_of_nothing_but_holes_behind_its_pixels_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(saved(Image.effect_noise((56, 56), 80), kind))
    assert image_size(path) == (56, 56)
    os.truncate(path, 66 << 20)  # it takes no space on the disk
    with pytest.raises(ImageError, match=r"a: the image cannot be opened \(it has 69,206,016 bytes, expected [0-9,]+"):
        image_size(path)
    with pytest.raises(ImageError, match=r"expected [0-9,]+ at most for an image of 56 x 56 pixels"):
        load_image(path)


def test_sixteen_bits_are_scaled_and_not_clipped_to_white() -> None:
    grey = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
    assert [load_image(saved(grey)).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    wide = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.int32))
    assert load_image(wide).getpixel((1, 0)) == (128, 128, 128)


@pytest.mark.parametrize(("kind", "fmt"), [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.int32, "TIFF")])
def test_eight_bits_in_a_wider_file_are_not_black(kind: type, fmt: str) -> None:
    image = load_image(saved(Image.fromarray(np.array([[0, 128, 255]], dtype=kind)), fmt))
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_any_error_of_the_decoder_names_the_image_and_many_frames_are_not_counted(tmp_path: Path) -> None:
    """A TIFF whose first page is whole; a chain of pages without sizes follows, where Pillow raises a TypeError."""
    pages = 30_000
    content = bytearray(saved(Image.new("L", (2, 2)), "TIFF"))
    first = int.from_bytes(content[4:8], "little")
    end = first + 2 + 12 * int.from_bytes(content[first : first + 2], "little")
    content += b"\0" * (len(content) % 2)
    start = len(content)
    content[end : end + 4] = start.to_bytes(4, "little")
    for page in range(pages):
        content += b"\0\0" + (start + 6 * (page + 1) if page < pages - 1 else 0).to_bytes(4, "little")
    before = time.process_time()
    assert load_first(bytes(content))[1] and time.process_time() - before < 0.5
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tif: has 2 x 2 pixels, expected 3 at most"):
        load_image(str(tmp_path / "a.tif"), max_pixels=3)


@pytest.mark.parametrize("error", [TypeError("Missing dimensions"), KeyError(270), EOFError(), MemoryError()])
def test_a_decoder_may_raise_anything(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", broken)
    with pytest.raises(ImageError, match="truncated or damaged"):
        load_image(saved(Image.new("RGB", (2, 2))))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_color_mode_becomes_rgb(mode: str) -> None:
    image = corners().convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (3, 2))
    assert load_image(image).mode == "RGB"


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="floating point"):
        load_image(Image.new("F", (2, 2)))


def test_the_first_frame_of_an_animation_is_used_with_a_warning() -> None:
    red, blue = Image.new("RGB", (2, 2), "red"), Image.new("RGB", (2, 2), "blue")
    data = saved(red, "GIF", save_all=True, append_images=[blue])
    with pytest.warns(UserWarning, match="has several frames; the first is used"):
        assert load_image(data).getpixel((0, 0)) == (255, 0, 0)


def test_a_missing_a_truncated_and_a_wrong_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.png: there is no such image file"):
        load_image(str(tmp_path / "gone.png"))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "cut.jpg").write_bytes(saved(noise, "JPEG")[:900])
    assert image_size(tmp_path / "cut.jpg") == (64, 64)
    with pytest.raises(ValueError, match=r"cut\.jpg: the image is truncated or damaged"):
        load_image(str(tmp_path / "cut.jpg"))
    (tmp_path / "text.png").write_text("hello")
    for open_it in (load_image, image_size):
        with pytest.raises(ValueError, match=r"text\.png: not an image"):
            open_it(tmp_path / "text.png")


def test_an_image_of_one_pixel_is_read(tmp_path: Path) -> None:
    for mode in ("RGB", "L", "1", "RGBA", "P"):
        data = saved(Image.new(mode, (1, 1)))
        assert (load_image(data).size, image_size(data), load_image(data).mode) == ((1, 1), (1, 1), "RGB")


def test_a_palette_with_transparency_a_cmyk_photo_and_a_16_bit_gray_keep_their_colors() -> None:
    red = Image.new("RGB", (4, 4), (200, 30, 20))
    photo = load_image(saved(red.convert("CMYK"), "JPEG", quality=95))
    assert all(abs(a - b) < 12 for a, b in zip(photo.getpixel((1, 1)), (200, 30, 20), strict=True))
    palette = red.quantize(4)
    assert load_image(saved(palette)).getpixel((0, 0)) == (200, 30, 20)
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert load_image(saved(half)).getpixel((0, 0)) == (127, 127, 127)
    deep = Image.fromarray(np.full((2, 2), 0x8000, dtype=np.uint16))
    assert load_image(saved(deep, "TIFF")).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("fmt", ["PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_any_animation_is_used_and_it_is_known_as_one(fmt: str) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = saved(red, fmt, save_all=True, append_images=[blue], **options)
    image, animated = load_first(data)
    assert (image.getpixel((0, 0)), animated) == ((255, 0, 0), True)


def test_an_empty_file_and_a_folder_are_refused_as_images(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    for name in ("empty.png", "folder.png"):
        for open_it in (load_image, image_size):
            with pytest.raises(ImageError, match=re.escape(name)):
                open_it(tmp_path / name)


def test_an_image_of_too_many_rows_of_pixels_is_refused(tmp_path: Path) -> None:
    Image.new("1", (1, 500_001)).save(tmp_path / "thin.png")
    with pytest.raises(ImageError, match=r"1 x 500001 pixels, expected 500,000 at most on each side"):
        image_size(tmp_path / "thin.png")


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_file_truncated_anywhere_is_read_or_refused(fmt: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))
    whole = saved(noise, fmt)
    refused = 0
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        try:
            assert load_image(whole[:length]).size == (24, 24)
        except ImageError:
            refused += 1
    assert refused > 30


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def strips(count: int) -> bytes:
    """A TIFF one pixel wide, each row of which is a strip."""
    tags = [(256, 1, 1), (257, 1, count), (258, 1, 8), (259, 1, 1), (262, 1, 1), (273, count, 200), (278, 1, 1)]
    table = b"".join(struct.pack("<HHLL", tag, 4, number, value) for tag, number, value in [*tags, (279, count, 200)])
    return (struct.pack("<2sHLH", b"II", 42, 8, 8) + table).ljust(200, b"\0") + struct.pack("<L", 10) * 2 * count


def tags_of(*more: tuple[int, int, int, int]) -> bytes:
    """A TIFF of 8 x 8 pixels, with other tags."""
    tags = [
        (256, 4, 1, 8),
        (257, 4, 1, 8),
        (258, 4, 1, 8),
        (259, 4, 1, 1),
        (262, 4, 1, 1),
        (273, 4, 1, 8),
        (279, 4, 1, 64),
    ]
    table = b"".join(struct.pack("<HHLL", *tag) for tag in [*tags, *more])
    return struct.pack("<2sHLH", b"II", 42, 8, len(tags) + len(more)) + table


def with_exif(tags: list[tuple[int, int, int, int]], mark: bytes = b"\xff\xe1", name: bytes = b"Exif\0\0") -> bytes:
    table = b"".join(struct.pack("<HHLL", *tag) for tag in tags)
    held = name + (struct.pack("<2sHLH", b"II", 42, 8, len(tags)) + table).ljust(60_000, b"\0")
    return JPEG[:2] + mark + struct.pack(">H", len(held) + 2) + held + JPEG[2:]


def riff(kind: bytes, size: int) -> bytes:
    return kind + struct.pack("<L", size) + bytes(size)


JPEG, PNG, GIF, WEBP, BMP = (saved(Image.new("L", (8, 8)), fmt) for fmt in ("JPEG", "PNG", "GIF", "WEBP", "BMP"))
SLOW = saved(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
SCAN = SLOW[SLOW.rindex(b"\xff\xda") : -2]
BEHIND = 13 + 3 * 2 ** ((GIF[10] & 7) + 1) * (GIF[10] >> 7)
TURNS = struct.pack("<2sHLHHHLL", b"II", 42, 8, 1, 0x112, 3, 9 << 20, 26)
APPS = b"\xff\xe5\0\2" * 2000
HEADERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "segments of a JPEG": (lambda: JPEG[:2] + APPS + JPEG[2:], "1,000 segments"),
    "large ones": (lambda: JPEG[:2] + (b"\xff\xe1\xff\xff" + bytes(65533)) * 260 + JPEG[2:], "16 MB of them"),
    "those behind an end": (lambda: JPEG[:2] + b"\xff\xd9" + APPS + JPEG[2:], "ends before its pixels"),
    "those within an unknown one": (lambda: JPEG[:2] + b"\xff\xf0\xff\xff" + bytes(65533) + JPEG[2:], "kind 0xf0"),
    "padding of a JPEG": (lambda: JPEG[:2] + b"\xff" * 600_000 + JPEG[2:], "500,000 pieces"),
    "scans of a JPEG": (lambda: SLOW[:-2] + SCAN * 100 + SLOW[-2:], "100 scans"),
    "chunks of a PNG": (lambda: PNG[:33] + chunk(b"prVt") * 260_000 + PNG[33:], "500,000 pieces"),
    "chunks behind the pixels": (lambda: PNG[:-12] + chunk(b"prVt") * 260_000 + PNG[-12:], "500,000 pieces"),
    "EXIF of a PNG": (lambda: PNG[:33] + chunk(b"eXIf", TURNS.ljust(18 << 20, b"\1")) + PNG[33:], "16 MB beside"),
    "a text behind its pixels": (lambda: PNG[:-12] + chunk(b"zTXt", bytes(18 << 20)) + PNG[-12:], "16 MB beside"),
    "a profile of a WebP": (lambda: WEBP[:12] + riff(b"ICCP", 18 << 20) + WEBP[12:], "16 MB beside"),
    "a header of a BMP": (lambda: BMP[:14] + struct.pack("<L", 1 << 24) + BMP[18:] + bytes(1 << 24), "its header has"),
    "raw data of a TIFF": (
        lambda: tags_of((0x9999, 7, 65 << 20, 200)) + bytes(65 << 20),
        "68,157,440 bytes in its tags",
    ),
    "the same numbers": (
        lambda: tags_of(*[(300 + i, 4, 190_000, 200) for i in range(9)]) + bytes(760_000),
        "1,710,007",
    ),
    "comments of a GIF": (lambda: GIF[:BEHIND] + b"!\xfe" + b"\2ab" * 260_000 + b"\0" + GIF[BEHIND:], "500,000 pieces"),
    "strips of a TIFF": (lambda: strips(200_001), "200,001 numbers"),
    "tiles of a TIFF": (lambda: tags_of((322, 4, 1, 1 << 14), (323, 4, 1, 1 << 14)), "tiles have 16,384 x 16,384"),
    "short numbers of them": (lambda: tags_of((322, 3, 1, 50_000), (323, 3, 1, 50_000)), "tiles have 50,000 x 50,000"),
    "samples of a TIFF": (lambda: tags_of((277, 4, 1, 60_000)), "60,000 samples in a pixel"),
    "two widths": (lambda: tags_of((256, 4, 1, 1 << 20)), "says twice how large"),
    "a width that is a text": (lambda: tags_of((322, 2, 1, 8)), "tag 322 is of the kind 2"),
    "numbers of the EXIF of a TIFF": (
        lambda: tags_of((0x8769, 4, 1, 200)).ljust(200, b"\0") + struct.pack("<HHHLL", 1, 0x9F04, 10, 60_000, 0),
        "60,000 numbers in its tags, expected 10,000",
    ),
    "numbers of the EXIF of a JPEG": (lambda: with_exif([(0x011A, 5, 10_001, 0)]), "10,001 numbers"),
    "tags that share their bytes": (lambda: with_exif([(300 + i, 7, 60_000, 0) for i in range(5)]), "share them"),
    "those of a preview": (
        lambda: with_exif([(300 + i, 7, 60_000, 0) for i in range(5)], b"\xff\xe2", b"MPF\0"),
        "share them",
    ),
    "comments of a PPM": (lambda: b"P2\n8 8\n255\n" + b"# c\n" * 10_001 + b"1 " * 64, "10,000 comments"),
}
"""Headers, and ways to the pixels, far longer than those of images."""


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_far_longer_than_that_of_an_image_is_refused_at_once(name: str) -> None:
    content, why = HEADERS[name]
    with pytest.raises(ImageError, match=why):
        load_image(content())


def test_what_pillow_warns_of_is_not_shown(tmp_path: Path) -> None:
    """In a process of its own, since pytest has filters of its own."""
    (tmp_path / "a.tif").write_bytes(saved(corners(), "TIFF")[:10])
    code = "import sys; from saccade.data.images import image_size; image_size(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path / "a.tif")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "ImageError" in found.stderr and "Warning" not in found.stderr


def test_usual_headers_are_no_longer_than_may_be() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    profile, exif = bytes(2 << 20), Image.Exif()
    exif[0x010E] = "x" * 60_000
    slow = saved(photo, "JPEG", progressive=True, icc_profile=profile, exif=exif, comment=b"c" * 60_000)
    parts = saved(photo, "MPO", save_all=True, append_images=[photo] * 3)
    for content in (slow, parts, strips(65_535), b"P3\n# GIMP\n1 1\n255\n# c\n1 2 3\n"):
        assert load_image(content).size == image_size(content, 1 << 30)
