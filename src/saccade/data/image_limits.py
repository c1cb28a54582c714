"""What an image file may hold besides its pixels. Pillow collects most of it, in Python, before it says how large the
image is; here it is refused first. The functions raise ValueError."""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any

from PIL import Image

MOST_READS = 500_000
"""Pieces in which a file is read: segments, chunks, blocks, single bytes of a header. A GIF of 32 million pixels of
noise takes 320,000, a PNG of 512 MB in the usual chunks of 8 KB 260,000."""
MOST_SEGMENTS, LARGEST_SEGMENTS = 1_000, 16 << 20
"""Segments of a JPEG, and the bytes of what a JPEG, PNG or WebP holds besides its pixels, or of EXIF in any file; a
profile of colors, a preview and a map of depth take up to some megabytes."""
MOST_SCANS = 100
"""Scans of a JPEG, each of which goes over all pixels; as in libtiff. Files have 10 or so."""
MOST_NUMBERS, MOST_NUMBERS_IN_ALL = 200_000, 1_000_000
"""Numbers of a tag of a TIFF, and of all: a palette of 16 bits has 196,608, an image with a strip for each row its
height."""
MOST_TAGS, LARGEST_TAGS = 1 << 16, 64 << 20
"""Tags of a TIFF, and the bytes of those of texts and raw data, such as the layers of an editor."""
MOST_EXIF_NUMBERS = 10_000
"""Numbers in a directory of EXIF, beside its bytes and texts; cameras write some hundreds."""
PIXEL_BYTES = 20
"""Bytes of a file for each pixel, at most: a plain PPM of 16 bits has 18."""
LARGEST_TILE, MOST_SAMPLES = 1 << 22, 32
"""Pixels of a tile of a TIFF, of which a decoder has a whole one, and the numbers of each pixel."""
LARGEST_BMP_HEADER = 1024
"""Bytes; the longest kind has 124."""
MOST_COMMENTS = 10_000
"""Comments among the numbers of a plain PPM."""
_BYTES, _BLOCK = (1, 2, 6, 7), 1 << 16
_PNG, _PIXELS = b"\x89PNG\r\n\x1a\n", (b"IDAT", b"fdAT", b"VP8 ", b"VP8L", b"ALPH", b"ANMF")
_TIFF = (b"II\x2a\x00", b"MM\x00\x2a", b"MM\x2a\x00", b"II\x00\x2a", b"MM\x00\x2b", b"II\x2b\x00")
_BITS = 258
_SHAPES: tuple[int, ...] = (256, 257, _BITS, 277, 322, 323)
"""Tags of a TIFF: width, height, bits of each sample, samples, width and height of the tiles."""
_INNER = (0x8769, 0x8825, 0xA005)
"""Tags of a TIFF that are places of other directories: EXIF, of the place on earth, of EXIF's own kinds."""
_Entry = tuple[int, int, int, bytes]
_INTEGERS = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 13: "L", 16: "Q", 17: "q"}
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
"""Without those that have no length and do not end anything: padding, restarts, another beginning."""
_SCAN, _END, _COMMENT, _APPS = 0xDA, 0xD9, 0xFE, (0xE1, 0xE2)
_EXIF, _ORIENTATION = b"Exif\0\0", 0x0112
_NUMBERS = {3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 11: "f", 12: "d", 13: "L", 16: "Q"}
_RATIOS = {5: "LL", 10: "ll"}
_UNITS = {kind: struct.calcsize("<" + code) for kind, code in (_NUMBERS | _RATIOS).items()} | {1: 1, 2: 1, 7: 1}
"""Bytes of a number of each kind in EXIF."""
ACROSS = (Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90)
"""Turns that exchange width and height."""
_TURNS: dict[float | None, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Counted:
    """A binary file that is read MOST_READS times at most."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, MOST_READS

    def read(self, size: int = -1) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"it is in more than {MOST_READS:,} pieces")
        return self.file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def check_header(file: IO[bytes]) -> None:
    """Refuses a header that holds far more than one of an image, before Pillow reads it."""
    head = file.read(16)
    if head.startswith(b"\xff\xd8\xff"):
        _check_segments(file)
    elif head.startswith(_TIFF):
        _check_tags(file, head)
    elif head.startswith(_PNG):
        _check_chunks(file, 8, struct.Struct(">L4s"), 4, sys.maxsize)
    elif head.startswith(b"RIFF"):
        _check_chunks(file, 12, struct.Struct("<4sL"), 0, 8 + int.from_bytes(head[4:8], "little"))
    elif head.startswith(b"BM"):
        file.seek(14)
        if (size := int.from_bytes(file.read(4), "little")) > LARGEST_BMP_HEADER:
            raise ValueError(f"its header has {size:,} bytes, expected {LARGEST_BMP_HEADER:,} at most")
    file.seek(0)


def check_bytes(image: Image.Image, size: int) -> None:
    """Refuses a file of far more bytes than the image can have, which are not looked at but read wherever a file is
    sent, stored or hashed. The frames of an animation behind the first and the layers of an editor count as such."""
    more = LARGEST_TAGS if image.format == "TIFF" else LARGEST_SEGMENTS
    if size > (most := more + PIXEL_BYTES * image.width * image.height):
        of = f"an image of {image.width} x {image.height} pixels"
        raise ValueError(f"it has {size:,} bytes, expected {most:,} at most for {of}")


def check_pixels(file: Any, kind: str | None) -> None:
    """Refuses pixels that take far longer than their number and the size of the file say. `file` is a `Counted`."""
    if kind in ("JPEG", "MPO") and sum(marker == _SCAN for marker, _ in _segments(file)) > MOST_SCANS:
        raise ValueError(f"it has more than {MOST_SCANS} scans")
    if kind in ("BMP", "PPM"):
        file.left = sys.maxsize  # these decoders read pixel by pixel
    if kind == "PPM":
        file.seek(0)
        plain = file.read(2) in (b"P1", b"P2", b"P3")
        if plain and sum(block.count(b"#") for block in iter(lambda: file.read(_BLOCK), b"")) > MOST_COMMENTS:
            raise ValueError(f"it has more than {MOST_COMMENTS:,} comments")


def check_exif(image: Image.Image) -> None:
    """Refuses EXIF, already read, of more numbers than tags of an image have."""
    if len(image.info.get("exif") or b"") > LARGEST_SEGMENTS:
        raise ValueError(f"its EXIF has more than {LARGEST_SEGMENTS >> 20} MB")


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """How Pillow's `exif_transpose` turns an image whose header, or all of which, is read. Pillow makes objects of all
    its EXIF for that."""
    exif, text = image.info.get("exif"), image.info.get("Raw profile type exif")
    if exif is None and isinstance(text, str):
        exif = bytes.fromhex("".join(text.split("\n")[3:]))
    number = _orientation(exif) if isinstance(exif, bytes) else None
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp")
    if number is None and isinstance(xmp, str | bytes):
        pattern = r'tiff:Orientation(="|>)([0-9])'
        found = re.search(pattern, xmp) if isinstance(xmp, str) else re.search(pattern.encode(), xmp)
        number = int(found[2]) if found else None
    return _TURNS.get(number)


def orientation_is_known(image: Image.Image) -> bool:
    """Whether the size of an opened image is already that of the turned one: of a TIFF with that tag."""
    return image.format == "TIFF" and _ORIENTATION in getattr(image, "tag_v2", {})


def _orientation(exif: bytes) -> float | None:
    """The first number of the tag in the first directory, 0 where it is none; None without it."""
    order, data, entries = _directory(exif)
    taken = 0
    for tag, kind, size, place in entries:
        if size > 4 and (taken := taken + size) > len(data):
            continue
        if place + size > len(data):
            return None  # where Pillow stops, too
        if tag == _ORIENTATION and size:
            if kind not in {*_NUMBERS, *_RATIOS}:
                return 0
            if kind in _RATIOS:
                over, under = struct.unpack_from(order + _RATIOS[kind], data, place)
                return over / under if under else 0
            return struct.unpack_from(order + _NUMBERS[kind], data, place)[0]
    return None


def _directory(exif: bytes) -> tuple[str, bytes, list[tuple[int, int, int, int]]]:
    """The order of bytes, the content, and of each tag in the first directory of EXIF: number, kind, bytes, place."""
    data = exif.removeprefix(_EXIF).removeprefix(_EXIF)
    order, entries = "<" if data.startswith(b"II") else ">", list[tuple[int, int, int, int]]()
    if not data.startswith(_TIFF[:5]) or len(data) < 8:
        return order, data, entries
    (start,) = struct.unpack_from(order + "L", data, 4)
    (count,) = struct.unpack(order + "H", data[start : start + 2].ljust(2, b"\0"))
    for place in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
        tag, kind, number, value = struct.unpack_from(order + "HHLL", data, place)
        if size := number * _UNITS.get(kind, 0):
            entries.append((tag, kind, size, place + 8 if size <= 4 else value))
    return order, data, entries


def _check_segments(file: IO[bytes]) -> None:
    """Refuses a JPEG without pixels, and directories of EXIF and previews that Pillow reads when it opens one."""
    parts: list[bytes] = []
    for marker, content in _segments(file):
        if content.startswith(_EXIF):
            parts.append(content.removeprefix(_EXIF))
        elif content.startswith(b"MPF\0"):
            _check_directory(content[4:])
        if marker == _SCAN:
            return _check_directory(b"".join(parts))
    raise ValueError("it ends before its pixels")


def _check_directory(exif: bytes) -> None:
    _, data, entries = _directory(exif)
    numbers = sum(size // _UNITS[kind] for _, kind, size, _ in entries if kind not in _BYTES)
    taken = sum(size for *_, size, _ in entries)
    if numbers > MOST_EXIF_NUMBERS:
        raise ValueError(f"its EXIF has {numbers:,} numbers, expected {MOST_EXIF_NUMBERS:,} at most")
    if taken > len(data) + _BLOCK:
        raise ValueError(f"the tags of its EXIF have {taken:,} bytes in {len(data):,}; they share them")


def _segments(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The markers of the segments of a JPEG, in linear time, and what those with EXIF and previews hold."""
    file.seek(2)
    count = taken = 0
    while (marker := _marker(file)) is not None and marker != _END:
        if not 0xC0 <= marker < 0xF0 and marker != _COMMENT:
            raise ValueError(f"it has a segment of the kind {marker:#x}, which is none of a JPEG")
        length = int.from_bytes(file.read(2))
        content = file.read(max(0, length - 2)) if marker in _APPS else b""
        file.seek(max(0, length - 2) - len(content), os.SEEK_CUR)
        count, taken = count + 1, taken + length
        if count > MOST_SEGMENTS or taken > LARGEST_SEGMENTS:
            most = f"{MOST_SEGMENTS:,} segments or {LARGEST_SEGMENTS >> 20} MB of them"
            raise ValueError(f"it has more than {most} beside its pixels")
        yield marker, content


def _marker(file: IO[bytes]) -> int | None:
    """The next marker, behind which the file is then; None at its end."""
    text, size = b"", 2
    while block := file.read(size):
        text += block
        if found := _MARKER.search(text):
            file.seek(found.end() - len(text), os.SEEK_CUR)
            return found[0][1]
        text, size = text[-1:], _BLOCK
    return None


def _check_chunks(file: IO[bytes], start: int, head: struct.Struct, more: int, end: int) -> None:
    """Refuses chunks of a PNG or WebP that hold far more than pixels. `more`: bytes of a chunk behind its content. What
    is behind the last chunk, or the `end` that the header says, is no part of the image: editors leave a larger one."""
    taken, place = 0, start
    while place < end and file.seek(place) == place and len(found := file.read(head.size)) == head.size:
        size, kind = sorted(head.unpack(found), key=lambda part: isinstance(part, bytes))
        if kind == b"IEND":
            return
        taken += 0 if kind in _PIXELS else size
        if taken > LARGEST_SEGMENTS:
            raise ValueError(f"it has more than {LARGEST_SEGMENTS >> 20} MB beside its pixels")
        place += head.size + size + (more or size % 2)


def _check_tags(file: IO[bytes], head: bytes) -> None:
    """Refuses a TIFF of far more tags than one has, in its first directory and in those that Pillow reads with it."""
    order, large = "<" if head.startswith(b"II") else ">", head[2] == 43
    (place,) = struct.unpack_from(order + ("Q" if large else "L"), head, 8 if large else 4)
    entries = _tiff_directory(file, place, order, large, MOST_NUMBERS_IN_ALL)
    _check_tiles([entry for entry in entries if entry[0] in _SHAPES], order)
    for _ in range(2):  # EXIF in the first one, more in EXIF
        places = [struct.unpack(order + "LQ"[large], value)[0] for tag, *_, value in entries if tag in _INNER]
        if len(places) > len(_INNER):
            raise ValueError("it has a directory of EXIF twice")
        found = [_tiff_directory(file, place, order, large, MOST_EXIF_NUMBERS) for place in places]
        entries = [entry for one in found for entry in one]


def _tiff_directory(file: IO[bytes], place: int, order: str, large: bool, most: int) -> list[_Entry]:
    """Number, kind, size and value of the tags in a directory."""
    number, tag = struct.Struct(order + ("Q" if large else "H")), struct.Struct(order + ("HHQ8s" if large else "HHL4s"))
    file.seek(place)
    (count,) = number.unpack(file.read(number.size).ljust(number.size, b"\0"))
    table = file.read(min(count, MOST_TAGS) * tag.size)
    entries = [*tag.iter_unpack(table[: len(table) // tag.size * tag.size])]
    sizes = [(kind in _BYTES, size) for _, kind, size, _ in entries]
    numbers = [size for raw, size in sizes if not raw]
    for got, what, limit in (
        (count, "tags", MOST_TAGS),
        (max(numbers, default=0), "numbers in a tag, such as strips", MOST_NUMBERS),
        (sum(numbers), "numbers in its tags", most),
        (sum(size for raw, size in sizes if raw), "bytes in its tags", LARGEST_TAGS),
    ):
        if got > limit:
            raise ValueError(f"it has {got:,} {what}, expected {limit:,} at most")
    return entries


def _check_tiles(entries: Sequence[_Entry], order: str) -> None:
    """Refuses tiles far larger than the image, and tags that libtiff and Pillow may read in different ways."""
    if len(dict(entry[:2] for entry in entries)) < len(entries):
        raise ValueError("it says twice how large it or a part of it is")
    found = dict.fromkeys(_SHAPES, 0)
    for place, kind, size, value in entries:
        if place == _BITS:
            continue
        if size != 1 or kind not in _INTEGERS or struct.calcsize(code := order + _INTEGERS[kind]) > len(value):
            raise ValueError(f"its tag {place} is of the kind {kind} and has {size:,} numbers, expected an integer")
        found[place] = struct.unpack_from(code, value)[0]
    width, height, samples, tile_width, tile_height = (found[place] for place in _SHAPES if place != _BITS)
    if samples > MOST_SAMPLES:
        raise ValueError(f"it has {samples:,} samples in a pixel, expected {MOST_SAMPLES} at most")
    if tile_width * tile_height > max(LARGEST_TILE, 4 * width * height):
        raise ValueError(f"its tiles have {tile_width:,} x {tile_height:,} pixels, expected about those of the image")
