"""What all readers share: rows with their places, fields that must be there, images that must open."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from saccade.data.images import image_size
from saccade.types import Box

Row = dict[str, Any]
Placed = tuple[str, Row | ValueError]
"""`train.jsonl:418` and its row, or the error that reading it gave."""
MARKER = "<image>"

T = TypeVar("T")


def jsonl_rows(path: Path) -> Iterator[Placed]:
    """(place, row) of every line that is not empty; a line that is no JSON object comes as the error to raise."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{path.name}:{number}", _row(line)


def _row(line: str) -> Row | ValueError:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return ValueError(f"not JSON ({error.msg} at column {error.colno}); expected one object per line")
    return row if isinstance(row, dict) else ValueError(f"got a JSON {type(row).__name__}, expected an object")


def field(row: Row, name: str, kind: type[T] | tuple[type[T], ...]) -> T:
    """`row[name]`; raises ValueError when it is missing or of another type."""
    if name not in row:
        raise ValueError(f"field '{name}' is missing; the row has {', '.join(row) or 'nothing'}")
    if not isinstance(row[name], kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise ValueError(f"field '{name}': got {row[name]!r}, expected {' or '.join(k.__name__ for k in kinds)}")
    return row[name]


def image_paths(names: str | Sequence[str], folder: Path, checked: set[str]) -> tuple[str, ...]:
    """Paths below `folder`; the header of each file is read once (`checked` remembers), so that a wrong one is found
    before any long work. Raises ValueError."""
    paths = tuple(str(folder / name) for name in ([names] if isinstance(names, str) else names))
    for path in paths:
        if path not in checked:
            image_size(path)
            checked.add(path)
    return paths


def with_markers(question: str, images: int) -> str:
    """The question when its `<image>` markers are none (images first) or one per image; raises ValueError otherwise."""
    if question.count(MARKER) not in (0, images):
        got = question.count(MARKER)
        raise ValueError(f"the question holds {got} {MARKER} markers for {images} images; expected 0 or {images}")
    return question


def as_box(value: Any) -> Box:
    """Four numbers as an xyxy box; raises ValueError."""
    numbers = isinstance(value, list | tuple) and len(value) == 4 and all(type(v) in (int, float) for v in value)
    if not numbers:
        raise ValueError(f"answer {value!r} is no box; expected [x1, y1, x2, y2] in image pixels")
    x1, y1, x2, y2 = (float(v) for v in value)
    if x1 > x2 or y1 > y2:
        raise ValueError(f"answer box {list(value)} has x1 > x2 or y1 > y2; expected xyxy in image pixels, not xywh")
    return (x1, y1, x2, y2)


def as_detections(value: Any) -> list[dict[str, Any]]:
    """Labelled boxes, given as a list or as the text of a JSON list (fenced or not; 'None' is no box at all)."""
    if isinstance(value, str):
        text = re.sub(r"^```(?:json)?|```$", "", value.strip()).strip()
        try:
            value = [] if text.lower() == "none" else json.loads(text)
        except json.JSONDecodeError:
            raise ValueError(f"answer {value!r} is no JSON list of {{'bbox_2d', 'label'}}") from None
    if not isinstance(value, list) or not all(isinstance(v, dict) and {"bbox_2d", "label"} <= v.keys() for v in value):
        raise ValueError(f"answer {value!r}: expected a list of {{'bbox_2d': [x1, y1, x2, y2], 'label': str}}")
    return [{"bbox_2d": list(as_box(v["bbox_2d"])), "label": str(v["label"])} for v in value]


def collect(rows: Iterable[Placed], read: Callable[[Row, str], T], skip: bool) -> tuple[list[T], int]:
    """What `read` makes of every row, and how many rows were bad; without `skip` the first bad row is raised with its
    place."""
    good: list[T] = []
    bad = 0
    for place, row in rows:
        try:
            if isinstance(row, ValueError):
                raise row
            good.append(read(row, place))
        except ValueError as error:
            if not skip:
                raise ValueError(f"{place}: {error}") from None
            bad += 1
    return good, bad
