"""COCO's files: annotations (`images`, `annotations`, `categories`) and results (a list of scored boxes)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saccade.faults import listed, shown
from saccade.grading.coco import Detection, Truth
from saccade.types import Box

MOST_ON_AN_IMAGE = 2_000
"""Gold boxes, and detections."""
LARGEST = 1e100
"""Products of such numbers are finite."""


def read_annotations(path: Path) -> tuple[list[Truth], set[Any]]:
    """The gold boxes of an annotation file and the ids of its images. ValueError with file and entry."""
    content = _json(path)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        got = f"an object with {listed(content)}" if isinstance(content, dict) else _kind(content)
        raise ValueError(f"{path}: got {got}, expected COCO annotations: an object with 'images' and 'annotations'")
    for key in ("images", "annotations"):
        if not isinstance(content[key], list):
            raise ValueError(f"{path}: got {_kind(content[key])} as '{key}', expected a list")
    for i, image in enumerate(content["images"]):
        if not isinstance(image, dict) or not isinstance(image.get("id"), int | str):
            raise ValueError(f"{path}: images[{i}] has no 'id', a whole number or a text")
    images = {image["id"] for image in content["images"]}
    truths = []
    for i, row in enumerate(content["annotations"]):
        place = f"{path}: annotations[{i}]"
        image, category, box = _shared(row, place, images)
        area = row.get("area", (box[2] - box[0]) * (box[3] - box[1]))
        if not _is_number(area):
            raise ValueError(f"{place}: got area {shown(area)}, expected a number of square pixels")
        truths.append(Truth(image, category, box, float(area), bool(row.get("iscrowd", 0))))
    _check_crowding(path, truths)
    return truths, images


def read_results(path: Path, images: set[Any]) -> list[Detection]:
    """The boxes of a results file, whose images must be among `images`. ValueError with file and entry."""
    content = _json(path)
    if not isinstance(content, list):
        raise ValueError(
            f"{path}: got {_kind(content)}, expected COCO results: a list of "
            "{image_id, category_id, bbox: [x, y, width, height], score}"
        )
    detections = []
    for i, row in enumerate(content):
        place = f"{path}: entry {i}"
        image, category, box = _shared(row, place, images)
        score = row.get("score", 1.0)
        if not _is_number(score):
            raise ValueError(f"{place}: got score {shown(score)}, expected a number")
        detections.append(Detection(image, category, box, float(score)))
    _check_crowding(path, detections)
    return detections


def _check_crowding(path: Path, boxes: Sequence[Detection | Truth]) -> None:
    """Pairs of boxes of an image are compared, which is quadratic."""
    for image, count in Counter(one.image for one in boxes).most_common(1):
        if count > MOST_ON_AN_IMAGE:
            raise ValueError(
                f"{path}: got {count:,} boxes on image {image!r:.80}, expected {MOST_ON_AN_IMAGE:,} at most; of "
                "detections, the figures count the 100 best scored ones of a category"
            )


def _shared(row: Any, place: str, images: set[Any]) -> tuple[Any, Any, Box]:
    """Image, category and xyxy box of an entry of either file."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{place}: got {_kind(row)}, expected an object")
    for key in ("image_id", "category_id", "bbox"):
        if key not in row:
            raise ValueError(f"{place}: field '{key}' is missing; it has {listed(row)}")
    for key in ("image_id", "category_id"):
        if not isinstance(row[key], int | str):
            raise ValueError(f"{place}: got {key} {shown(row[key])}, expected a whole number or a text")
    if row["image_id"] not in images:
        raise ValueError(
            f"{place}: image {shown(row['image_id'])} is not among the {len(images)} images of the annotations"
        )
    box = row["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"{place}: got bbox {shown(box)}, expected four numbers [x, y, width, height]")
    if box[2] < 0 or box[3] < 0:
        raise ValueError(
            f"{place}: got bbox {shown(box)} with a negative side; expected [x, y, width, height], not xyxy"
        )
    x, y, width, height = (float(v) for v in box)
    return row["image_id"], row["category_id"], (x, y, x + width, y + height)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")


def _json(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg} at column {error.colno})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: JSON that cannot be read ({error})") from None
