"""What an image file may hold besides its pixels. Pillow collects most of it, in Python, before it says how large the
image is; here it is refused first. The functions raise ValueError."""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Iterator
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
LARGEST_BMP_HEADER = 1024
"""Bytes; the longest kind has 124."""
MOST_COMMENTS = 10_000
"""Comments among the numbers of a plain PPM."""
_BYTES, _BLOCK = (1, 2, 6, 7), 1 << 16
_PNG, _PIXELS = b"\x89PNG\r\n\x1a\n", (b"IDAT", b"fdAT", b"VP8 ", b"VP8L", b"ALPH", b"ANMF")
_TIFF = (b"II\x2a\x00", b"MM\x00\x2a", b"MM\x2a\x00", b"II\x00\x2a", b"MM\x00\x2b", b"II\x2b\x00")
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
"""Without those that have no length and do not end anything: padding, restarts, another beginning."""
_SCAN, _END, _COMMENT = 0xDA, 0xD9, 0xFE


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
        if _SCAN not in _segments(file):  # which stops there
            raise ValueError("it ends before its pixels")
    elif head.startswith(_TIFF):
        _check_tags(file, head)
    elif head.startswith(_PNG):
        _check_chunks(file, 8, struct.Struct(">L4s"), 4)
    elif head.startswith(b"RIFF"):
        _check_chunks(file, 12, struct.Struct("<4sL"), 0)
    elif head.startswith(b"BM"):
        file.seek(14)
        if (size := int.from_bytes(file.read(4), "little")) > LARGEST_BMP_HEADER:
            raise ValueError(f"its header has {size:,} bytes, expected {LARGEST_BMP_HEADER:,} at most")
    file.seek(0)


def check_pixels(file: Any, kind: str | None) -> None:
    """Refuses pixels that take far longer than their number and the size of the file say. `file` is a `Counted`."""
    if kind in ("JPEG", "MPO") and sum(marker == _SCAN for marker in _segments(file)) > MOST_SCANS:
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


def _segments(file: IO[bytes]) -> Iterator[int]:
    """The markers of the segments of a JPEG, in linear time."""
    file.seek(2)
    count = taken = 0
    while (marker := _marker(file)) is not None and marker != _END:
        if not 0xC0 <= marker < 0xF0 and marker != _COMMENT:
            raise ValueError(f"it has a segment of the kind {marker:#x}, which is none of a JPEG")
        length = int.from_bytes(file.read(2))
        file.seek(max(0, length - 2), os.SEEK_CUR)
        count, taken = count + 1, taken + length
        if count > MOST_SEGMENTS or taken > LARGEST_SEGMENTS:
            most = f"{MOST_SEGMENTS:,} segments or {LARGEST_SEGMENTS >> 20} MB of them"
            raise ValueError(f"it has more than {most} beside its pixels")
        yield marker


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


def _check_chunks(file: IO[bytes], start: int, head: struct.Struct, more: int) -> None:
    """Refuses chunks of a PNG or WebP that hold far more than pixels. `more`: bytes of a chunk behind its content."""
    file.seek(start)
    taken = 0
    while len(found := file.read(head.size)) == head.size:
        size, kind = sorted(head.unpack(found), key=lambda part: isinstance(part, bytes))
        taken += 0 if kind in _PIXELS else size
        if taken > LARGEST_SEGMENTS:
            raise ValueError(f"it has more than {LARGEST_SEGMENTS >> 20} MB beside its pixels")
        file.seek(size + (more or size % 2), os.SEEK_CUR)


def _check_tags(file: IO[bytes], head: bytes) -> None:
    order, large = "<" if head.startswith(b"II") else ">", head[2] == 43
    (place,) = struct.unpack_from(order + ("Q" if large else "L"), head, 8 if large else 4)
    number, tag = struct.Struct(order + ("Q" if large else "H")), struct.Struct(order + ("HHQ8x" if large else "HHL4x"))
    file.seek(place)
    (count,) = number.unpack(file.read(number.size))
    table = file.read(min(count, MOST_TAGS) * tag.size)
    whole = table[: len(table) // tag.size * tag.size]
    sizes = [(kind in _BYTES, size) for _, kind, size in tag.iter_unpack(whole)]
    numbers = [size for raw, size in sizes if not raw]
    for got, what, limit in (
        (count, "tags", MOST_TAGS),
        (max(numbers, default=0), "numbers in a tag, such as strips", MOST_NUMBERS),
        (sum(numbers), "numbers in its tags", MOST_NUMBERS_IN_ALL),
        (sum(size for raw, size in sizes if raw), "bytes in its tags", LARGEST_TAGS),
    ):
        if got > limit:
            raise ValueError(f"it has {got:,} {what}, expected {limit:,} at most")
