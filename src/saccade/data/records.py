"""Shared by all formats: rows with their places, required fields, image checks, boxes, markers."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, TypeVar

from saccade.data.images import ImageError, image_size
from saccade.types import Box, ImageSource, Sample

Row = dict[str, Any]
Placed = tuple[str, Row | ValueError]
"""A place such as `train.jsonl:418` and its row, or the error of reading it."""
Item = tuple[str, Sample | ValueError]
"""The result of reading a row: its place and a sample, or the error."""
MARKER = "<image>"
VIDEO, AUDIO = "<video>", "<audio>"
UNSUPPORTED = {
    "video": "videos are not supported, use single frames as images",
    "audio": "audio is not supported",
    "tool": "tools are not supported, a reply must be complete without them",
}

T = TypeVar("T")


class BoxError(ValueError):
    """A box whose corners are in the wrong order, or that does not consist of numbers."""


def kind_of(error: ValueError) -> str:
    """The category of an invalid row: image, box, or row for all else."""
    return "image" if isinstance(error, ImageError) else "box" if isinstance(error, BoxError) else "row"


@dataclass(frozen=True)
class Reading:
    """What a reader reads, and the settings from the recipe entry."""

    path: Path
    """A file, a folder or a pattern (`train-*.parquet`); owner/name for a data set on the hub."""
    image_folder: Path
    """The base folder of image names."""
    task: str | None = None
    """Task of rows without one."""
    hub: bool = False
    """`path` is a name on the hub."""
    split: str | None = None
    """Split of a Hugging Face data set."""
    negatives: int = 3
    """COCO detection: maximum number of absent labels per image."""
    seed: int = 0
    """COCO detection: seed for drawing them."""
    columns: Mapping[str, str | list[str]] = dataclass_field(default_factory=dict)
    """Source `table`: what a column is -> its name."""
    checked: set[str] = dataclass_field(default_factory=set)
    """Images whose header has been checked."""


def each(rows: Iterable[Placed], read: Callable[[Row, str], Sample | Iterable[Sample]]) -> Iterator[Item]:
    """The samples of every row; a ValueError of `read` takes the place of the row."""
    for place, row in rows:
        if isinstance(row, ValueError):
            yield place, row
            continue
        try:
            result = read(row, place)
            samples = [result] if isinstance(result, Sample) else list(result)
        except ValueError as error:
            yield place, error
            continue
        for sample in samples:
            yield place, sample


def jsonl_rows(path: Path) -> Iterator[Placed]:
    """(place, row) of every non-empty line; a line that is not a JSON object yields the error to raise."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{path.name}:{number}", _row(line)


def _row(line: bytes) -> Row | ValueError:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return ValueError(f"not UTF-8 text ({error.reason} at byte {error.start}); save the file as UTF-8")
    except json.JSONDecodeError as error:
        return ValueError(f"not JSON ({error.msg} at column {error.colno}); expected one object per line")
    except RecursionError:
        return ValueError("unreadable JSON: nested too deeply")
    return row if isinstance(row, dict) else ValueError(f"got a JSON {type(row).__name__}, expected an object")


def field(row: Row, name: str, kind: type[T] | tuple[type[T], ...]) -> T:
    """`row[name]`; raises ValueError when it is missing or of another type."""
    if name not in row:
        raise ValueError(f"field '{name}' is missing; the row has {', '.join(row) or 'nothing'}")
    if not isinstance(row[name], kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise ValueError(f"field '{name}': got {shown(row[name])}, expected {' or '.join(k.__name__ for k in kinds)}")
    return row[name]


def shown(value: Any) -> str:
    """A value for an error message, truncated to a readable length."""
    text = f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def image_paths(names: str | Sequence[str], folder: Path, checked: set[str]) -> tuple[str, ...]:
    """Paths below `folder`; the header of each file is read once (tracked in `checked`), so that a bad file is found
    before any long work. Raises ValueError."""
    paths = tuple(str(folder / name) for name in ([names] if isinstance(names, str) else names))
    for path in paths:
        if path not in checked:
            image_size(path)
            checked.add(path)
    return paths


def images_of(value: Any, reading: Reading) -> tuple[ImageSource, ...]:
    """The images of a row: a name, bytes, a data URI, base64, `{"bytes", "path"}` as in Hugging Face data sets, or a
    list of those.

    Bytes take precedence over the path, which refers to someone else's disk. Headers are read. Raises ValueError.
    """
    images: list[ImageSource] = []
    for one in value if isinstance(value, list | tuple) else [value]:
        content = one.get("bytes") if isinstance(one, dict) else one if isinstance(one, bytes) else None
        name = one.get("path") if isinstance(one, dict) else one
        if content is None and isinstance(name, str):
            content = encoded_image(name)
        if content is not None:
            if not isinstance(content, bytes):
                raise ValueError(f"an image's 'bytes' are a {type(content).__name__}; expected bytes")
            image_size(content)
            images.append(content)
        elif isinstance(name, str) and name:
            images.extend(image_paths(name, reading.image_folder, reading.checked))
        else:
            raise ValueError(f"got {shown(one)} for an image, expected a file name, bytes or {{'bytes', 'path'}}")
    return tuple(images)


_BASE64_IMAGE = re.compile(r"(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk)[A-Za-z0-9+/\s]{60,}={0,2}\s*")
"""Base64 of a JPEG, PNG, GIF, WebP or BMP file; the first of these would also be an absolute path."""


def encoded_image(text: str) -> bytes | None:
    """The file in a data URI or in bare base64; None for a text that is neither. Raises ValueError."""
    if text[:5].lower() == "data:":
        head, _, body = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise ImageError(f"the image is a data URI {shown(head)}, expected data:image/...;base64,...")
    elif _BASE64_IMAGE.fullmatch(text):
        body = text
    else:
        return None
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except ValueError as error:
        raise ImageError(f"the base64 of the image is damaged ({error})") from None


def options_of(row: Row) -> Any:
    """The options of a question in the row's column of that name; () without one."""
    return next((row[key] for key in ("options", "choices") if row.get(key)), ())


def annotated_size(row: Row) -> tuple[int, int] | None:
    """(width, height) of the image as the row gives it, in pixels."""
    width, height = row.get("width"), row.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def refuse_unsupported(row: Row, *texts: str) -> None:
    """ValueError for a row with a video, audio or tools."""
    for kind, why in UNSUPPORTED.items():
        fields = [name for name in (kind, f"{kind}s") if row.get(name) not in (None, "", "[]", [], {})]
        marker = f"<{kind}>" if kind != "tool" else None
        if fields or (marker and any(marker in text for text in texts)):
            where = f"field '{fields[0]}'" if fields else f"a {marker} marker"
            raise ValueError(f"the row has {where}; {why}")


def with_markers(question: str, images: int) -> str:
    """The question, which must have no `<image>` markers (images first) or one per image; else raises ValueError."""
    if question.count(MARKER) not in (0, images):
        got = question.count(MARKER)
        raise ValueError(f"the question has {got} {MARKER} markers for {images} images; expected 0 or {images}")
    return question


def as_box(value: Any) -> Box:
    """Four numbers as an xyxy box; raises BoxError."""
    numbers = isinstance(value, list | tuple) and len(value) == 4 and all(type(v) in (int, float) for v in value)
    if not numbers or not all(math.isfinite(v) for v in value):
        raise BoxError(f"answer {shown(value)} is not a box; expected [x1, y1, x2, y2] in image pixels")
    x1, y1, x2, y2 = (float(v) for v in value)
    if x1 > x2 or y1 > y2:
        raise BoxError(f"answer box {list(value)} has x1 > x2 or y1 > y2; expected xyxy in image pixels, not xywh")
    return (x1, y1, x2, y2)


def from_xywh(value: Any) -> Box:
    """COCO's x, y, width, height as an xyxy box; raises BoxError."""
    numbers = isinstance(value, list | tuple) and len(value) == 4 and all(type(v) in (int, float) for v in value)
    if not numbers or not all(math.isfinite(v) for v in value):
        raise BoxError(f"bbox {shown(value)} is not a box; expected [x, y, width, height] in image pixels")
    x, y, width, height = (float(v) for v in value)
    if width < 0 or height < 0:
        raise BoxError(f"bbox {list(value)} has a negative width or height; expected [x, y, width, height]")
    return (x, y, x + width, y + height)
