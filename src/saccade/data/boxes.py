"""Box formats: COCO instances as referring expressions or as detection with absent labels, and RefCOCO rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from saccade.data import records
from saccade.data.files import table_rows
from saccade.data.golds import as_one_box
from saccade.data.instances import REFER, Instance, Instances, Picture, as_label, check_task, questions
from saccade.data.json_stream import UnreadError, elements
from saccade.data.records import Item, Reading, Row
from saccade.faults import listed, no_file, shown
from saccade.types import Box, Sample

_IMAGE_ID = re.compile(r'"image_id"\s*:\s*"?([^"\s,}]+)')
MOST_EXPRESSIONS = 1_000
"""Of one box: each becomes a sample."""
XYWH = 1
"""Detectron2's `bbox_mode` of COCO's boxes."""

# --------------------------------------------------------------------------------------------------------------- coco


def coco(reading: Reading) -> Iterator[Item]:
    """COCO instances JSON (also LVIS, OVDEval, D3); `image_folder` holds the images. `task`: see
    `instances.questions`."""
    if not reading.path.is_file():
        raise ValueError(f"{reading.path}: {no_file(reading.path)}; expected an instances JSON")
    check_task(reading, "COCO instances")
    coco_file = Instances()
    yield from read_instances(coco_file, reading)
    yield from questions(coco_file, reading)


def read_instances(coco_file: Instances, reading: Reading) -> Iterator[tuple[str, ValueError]]:
    """Fills `coco_file` from the file, which is read as a stream; gives the invalid entries with their lines."""
    keys, first = set[str](), ""
    for key, line, entry in elements(reading.path):
        place = f"{reading.path.name}:{line}"
        if isinstance(entry, UnreadError):
            raise ValueError(f"{reading.path}:{line}: {entry}; gold answers would lack boxes, mend the file")
        keys |= {key} - {""}
        try:
            if isinstance(entry, ValueError):
                raise _named(coco_file, key, entry)
            if key in _ENTRIES:
                if not isinstance(entry, dict):
                    raise ValueError(f"'{key}' has {records.shown(entry)}, expected objects")
                _ENTRIES[key](coco_file, place, entry)
        except records.BROKEN as error:
            named = f"'{key}': {type(error).__name__}: {records.shown(str(error))}"
            bad = error if isinstance(error, ValueError) else ValueError(named)
            first = first or f"; {place}: {bad}"
            yield place, bad
    if missing := [key for key in _ENTRIES if key not in keys]:
        got = listed(sorted(keys)) or "nothing"
        raise ValueError(
            f"{reading.path}: has {got}, expected images, annotations and categories: {missing[0]} is missing or empty"
            f"{first}"
        )
    used = {one.category for some in coco_file.by_image.values() for one in some}
    for category in [one for one, label in coco_file.labels.items() if label in coco_file.parents and one not in used]:
        del coco_file.labels[category]
    for image in [image for image in coco_file.by_image if image not in coco_file.pictures]:
        place = coco_file.by_image.pop(image)[0].place
        yield place, ValueError(f"image_id {image} is not an image of this file")
    for image, instances in coco_file.by_image.items():
        for one in instances:
            if one.category not in coco_file.labels:
                why = f"category_id {shown(one.category)} is not a category of this file; image {image} is skipped"
                coco_file.invalid_images.add(image)
                yield one.place, ValueError(why)
        coco_file.by_image[image] = [one for one in instances if one.category in coco_file.labels]


def _picture(coco_file: Instances, place: str, entry: Row) -> None:
    negative = _texts(entry.get("neg_text") or ()) if "neg_text" in entry else _ids(entry, "neg_category_ids")
    image = str(_id(entry, "id"))
    if image in coco_file.pictures:
        coco_file.invalid_images.add(image)
        raise ValueError(f"image id {image} is that of an earlier image too; both are skipped")
    coco_file.pictures[image] = Picture(
        place,
        _file_name(entry),
        records.annotated_size(entry),
        tuple(_texts(entry.get("text") or ())),
        tuple(negative),
        tuple(_ids(entry, "not_exhaustive_category_ids")),
    )


def _file_name(entry: Row) -> str:
    """The name of an image. LVIS gives its address only, whose last two parts are the folder of COCO and the file."""
    if "file_name" not in entry and "coco_url" in entry:
        return "/".join(records.field(entry, "coco_url", str).split("/")[-2:])
    return records.field(entry, "file_name", str)


def _instance(coco_file: Instances, place: str, entry: Row) -> None:
    image = str(_id(entry, "image_id"))
    try:
        category = _id(entry, "category_id")
        box = records.from_xywh(records.field(entry, "bbox", list))
        if entry.get("bbox_mode", XYWH) != XYWH:
            raise records.BoxError(f"bbox_mode is {shown(entry['bbox_mode'])}, expected {XYWH} (x, y, width, height)")
    except ValueError as error:
        coco_file.invalid_images.add(image)
        raise type(error)(f"{error}; image {image} is skipped") from None
    crowd = any(str(entry.get(key) or "0") not in ("0", "0.0", "False") for key in ("iscrowd", "ignore"))
    coco_file.by_image[image].append(Instance(place, category, box, crowd))


def _named(coco_file: Instances, key: str, error: ValueError) -> ValueError:
    """The error of an entry that is not JSON, with the images of the annotations in its text, which are skipped."""
    images = dict.fromkeys(_IMAGE_ID.findall("".join(getattr(error, "__notes__", ())))) if key == "annotations" else {}
    coco_file.invalid_images.update(images)
    return ValueError(f"{error}; image {listed(images)} is skipped" if images else str(error))


def _category(coco_file: Instances, place: str, entry: Row) -> None:
    category, name = _id(entry, "id"), as_label(records.field(entry, "name", str))
    if coco_file.labels.setdefault(category, name) != name:
        raise ValueError(f"category {shown(category)} has the name {shown(name)} and another one; expected one")
    coco_file.parents.add(entry.get("supercategory"))


_ENTRIES = {"images": _picture, "annotations": _instance, "categories": _category}


def _id(entry: Row, name: str) -> int | str:
    return records.field(entry, name, (int, str))


def _ids(entry: Row, name: str) -> list[int | str]:
    """The categories that a field names; none without it."""
    ids = entry.get(name) or []
    if not isinstance(ids, list) or not all(isinstance(one, int | str) for one in ids):
        raise ValueError(f"field '{name}': got {shown(ids)}, expected a list of category ids")
    return ids


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(one) for one in value]


# -------------------------------------------------------------------------------------------------------------- refcoco


def refcoco(reading: Reading) -> Iterator[Item]:
    """Rows of RefCOCO, RefCOCO+ and RefCOCOg in three common schemas, distinguished by their fields.

    VLM-R1's evaluation files: `problem`, `solution` (xyxy). Qwen-VL's and InternVL's: `sent`, `bbox` (xyxy). The hub's
    (lmms-lab): `answer`, a list of expressions with a sample for each, and `bbox` (x, y, width, height).
    """

    def read(row: Row, place: str) -> Iterator[Sample]:
        images = records.images_of(records.field(row, "image", (str, bytes, dict, list)), reading)
        expressions, question, box = _expressions(row)
        records.with_markers(question, len(images))
        if len(expressions) > MOST_EXPRESSIONS:
            raise ValueError(f"got {len(expressions):,} expressions of one box, expected {MOST_EXPRESSIONS:,} at most")
        name = str(row.get("question_id", row.get("id", place)))
        size = records.annotated_size(row)
        meta: dict[str, Any] = {"place": place} | ({"annotated_size": list(size)} if size else {})
        ids = [name] if len(expressions) == 1 else (f"{name}/{k}" for k in range(len(expressions)))
        for one, text in zip(ids, expressions, strict=True):
            yield Sample(one, images, question.format(text), box, reading.task or "refer", {**meta, "expression": text})

    return records.each(table_rows(reading), read)


def _expressions(row: Row) -> tuple[list[str], str, Box]:
    """(expressions, question template, box) of a row."""
    if "solution" in row:
        problem = records.field(row, "problem", str).strip()
        expression = str(row.get("normal_caption") or problem.replace(records.MARKER, "")).strip()
        return [expression], problem.replace("{", "{{").replace("}", "}}"), as_one_box(row["solution"])
    if "sent" in row:
        return [records.field(row, "sent", str).strip()], REFER, as_one_box(row.get("bbox"))
    answers = records.field(row, "answer", (list, str))
    found = [text.strip() for text in ([answers] if isinstance(answers, str) else answers) if isinstance(text, str)]
    if not any(found):
        raise ValueError("field 'answer': contains no expression; expected a list of texts (or 'sent', or 'problem')")
    return [text for text in found if text], REFER, records.from_xywh(row.get("bbox"))
