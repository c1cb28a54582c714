"""What all formats share: rows with their places, fields that must be there, images that must open, boxes, markers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, TypeVar

from saccade.data.images import ImageError, image_size
from saccade.types import Box, ImageSource, Sample

Row = dict[str, Any]
Placed = tuple[str, Row | ValueError]
"""`train.jsonl:418` and its row, or the error that reading it gave."""
Item = tuple[str, Sample | ValueError]
"""What a reader makes of a row: its place and a sample, or why there is none."""
MARKER = "<image>"
VIDEO = "<video>"

T = TypeVar("T")


class BoxError(ValueError):
    """A box whose corners are in the wrong order, or that is not made of numbers."""


def kind_of(error: ValueError) -> str:
    """What is wrong with a row, in one word: image, box, or row for all else."""
    return "image" if isinstance(error, ImageError) else "box" if isinstance(error, BoxError) else "row"


@dataclass(frozen=True)
class Reading:
    """Where a reader looks, and what an entry of a recipe says about it."""

    path: Path
    """A file, a folder or a pattern (`train-*.parquet`); of a data set on the hub, owner/name."""
    image_folder: Path
    """Image names are relative to it."""
    task: str | None = None
    """Task of rows that name none."""
    hub: bool = False
    """`path` is a name on the hub."""
    split: str | None = None
    """Of a Hugging Face data set."""
    negatives: int = 3
    """COCO detection: labels that are absent, at most so many per image."""
    seed: int = 0
    """COCO detection: draws them."""
    checked: set[str] = dataclass_field(default_factory=set)
    """Images whose header was read."""


def each(rows: Iterable[Placed], read: Callable[[Row, str], Sample | Iterable[Sample]]) -> Iterator[Item]:
    """The samples that `read` makes of every row; a ValueError of it stands in the row's place."""
    for place, row in rows:
        if isinstance(row, ValueError):
            yield place, row
            continue
        try:
            made = read(row, place)
            samples = [made] if isinstance(made, Sample) else list(made)
        except ValueError as error:
            yield place, error
            continue
        for sample in samples:
            yield place, sample


def jsonl_rows(path: Path) -> Iterator[Placed]:
    """(place, row) of every line that is not empty; a line that is no JSON object comes as the error to raise."""
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
        return ValueError("not JSON that can be read: nested too deep")
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
    """A value in an error message, cut to a length that can be read."""
    text = f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def image_paths(names: str | Sequence[str], folder: Path, checked: set[str]) -> tuple[str, ...]:
    """Paths below `folder`; the header of each file is read once (`checked` remembers), so that a wrong one is found
    before any long work. Raises ValueError."""
    paths = tuple(str(folder / name) for name in ([names] if isinstance(names, str) else names))
    for path in paths:
        if path not in checked:
            image_size(path)
            checked.add(path)
    return paths


def images_of(value: Any, reading: Reading) -> tuple[ImageSource, ...]:
    """The images of a row: a name, bytes, `{"bytes", "path"}` as Hugging Face keeps them, or a list of those.

    Bytes go before a path: the path beside them is the name on somebody else's disk. Headers are read. ValueError.
    """
    images: list[ImageSource] = []
    for one in value if isinstance(value, list | tuple) else [value]:
        content = one.get("bytes") if isinstance(one, dict) else one if isinstance(one, bytes) else None
        name = one.get("path") if isinstance(one, dict) else one
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


def refuse_videos(row: Row, *texts: str) -> None:
    """ValueError for a row that holds a video."""
    held = [name for name in ("video", "videos") if row.get(name)]
    if held or any(VIDEO in text for text in texts):
        where = f"field '{held[0]}'" if held else f"a {VIDEO} marker"
        raise ValueError(f"the row has {where}; videos are not read, give single frames as images")


def with_markers(question: str, images: int) -> str:
    """The question when its `<image>` markers are none (images first) or one per image; raises ValueError otherwise."""
    if question.count(MARKER) not in (0, images):
        got = question.count(MARKER)
        raise ValueError(f"the question holds {got} {MARKER} markers for {images} images; expected 0 or {images}")
    return question


def as_box(value: Any) -> Box:
    """Four numbers as an xyxy box; raises BoxError."""
    numbers = isinstance(value, list | tuple) and len(value) == 4 and all(type(v) in (int, float) for v in value)
    if not numbers or not all(math.isfinite(v) for v in value):
        raise BoxError(f"answer {shown(value)} is no box; expected [x1, y1, x2, y2] in image pixels")
    x1, y1, x2, y2 = (float(v) for v in value)
    if x1 > x2 or y1 > y2:
        raise BoxError(f"answer box {list(value)} has x1 > x2 or y1 > y2; expected xyxy in image pixels, not xywh")
    return (x1, y1, x2, y2)


def from_xywh(value: Any) -> Box:
    """COCO's x, y, width, height as an xyxy box; raises BoxError."""
    numbers = isinstance(value, list | tuple) and len(value) == 4 and all(type(v) in (int, float) for v in value)
    if not numbers or not all(math.isfinite(v) for v in value):
        raise BoxError(f"bbox {shown(value)} is no box; expected [x, y, width, height] in image pixels")
    x, y, width, height = (float(v) for v in value)
    if width < 0 or height < 0:
        raise BoxError(f"bbox {list(value)} has a negative width or height; expected [x, y, width, height]")
    return (x, y, x + width, y + height)


def as_detections(value: Any) -> list[dict[str, Any]]:
    """Labelled boxes, given as a list or as the text of a JSON list (fenced or not; 'None' is no box at all)."""
    if isinstance(value, str):
        text = re.sub(r"^```(?:json)?|```$", "", value.strip()).strip()
        try:
            value = [] if text.lower() == "none" else json.loads(text)
        except json.JSONDecodeError:
            raise ValueError(f"answer {shown(value)} is no JSON list of {{'bbox_2d', 'label'}}") from None
    if not isinstance(value, list) or not all(isinstance(v, dict) and {"bbox_2d", "label"} <= v.keys() for v in value):
        raise ValueError(f"answer {shown(value)}: expected a list of {{'bbox_2d': [x1, y1, x2, y2], 'label': str}}")
    return [{"bbox_2d": list(as_box(v["bbox_2d"])), "label": str(v["label"])} for v in value]
