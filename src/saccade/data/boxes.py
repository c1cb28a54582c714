"""Box formats: COCO instances as referring expressions or as detection with absent labels, and RefCOCO rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from saccade.data import records
from saccade.data.files import table_rows
from saccade.data.json_stream import elements
from saccade.data.records import Item, Reading, Row
from saccade.tasks import write_question
from saccade.types import Box, Sample

REFER = write_question("refer", expression="{}")
DETECT = (
    "Detect every one of these objects in the image: {}. Answer with a JSON list of "
    '{{"bbox_2d": [x1, y1, x2, y2], "label": "..."}}; some may be absent, the list is empty when none is there.'
)


# --------------------------------------------------------------------------------------------------------------- coco


@dataclass(frozen=True, slots=True)
class Picture:
    """An entry of `images`."""

    line: int
    name: str
    positive: tuple[str, ...]
    """OVDEval's `text`: labels to query in addition to those with boxes."""
    negative: tuple[Any, ...]
    """OVDEval's `neg_text` (labels) or LVIS' `neg_category_ids`: known to be absent."""
    not_exhaustive: tuple[Any, ...]
    """LVIS' `not_exhaustive_category_ids`: categories whose objects do not all have boxes."""


@dataclass(frozen=True, slots=True)
class Instance:
    """An entry of `annotations`."""

    line: int
    category: Any
    box: Box
    crowd: bool


@dataclass
class Instances:
    """A COCO file without its masks."""

    pictures: dict[Any, Picture] = field(default_factory=dict)
    labels: dict[Any, str] = field(default_factory=dict)
    by_image: defaultdict[Any, list[Instance]] = field(default_factory=lambda: defaultdict(list))
    bad: list[tuple[int, ValueError]] = field(default_factory=list)
    invalid_images: set[Any] = field(default_factory=set)
    """Images with an invalid annotation: their gold answers would be incomplete."""


def coco(reading: Reading) -> Iterator[Item]:
    """COCO instances JSON (also LVIS, OVDEval, D3); `image_folder` holds the images. `task` selects the samples.

    `detect` (the default): a sample per image with all its boxes, queried together with 1 to `negatives` absent labels,
    as VLM-R1 did for D3. These are known negatives if the file has them (`neg_category_ids`, `neg_text`), else labels
    of other images, drawn with `seed`. Crowds and labels that are not annotated exhaustively are not queried.

    `refer`: a sample per label with exactly one box in its image.
    """
    if not reading.path.is_file():
        raise ValueError(f"{reading.path}: there is no such file; expected an instances JSON")
    if reading.task not in (None, "detect", "refer"):
        raise ValueError(f"task {reading.task!r} cannot be made of COCO instances; expected detect or refer")
    name, coco_file = reading.path.name, read_instances(reading)
    for line, error in coco_file.bad:
        yield f"{name}:{line}", error
    known = sorted(set(coco_file.labels.values()))
    for key, picture in coco_file.pictures.items():
        if key in coco_file.invalid_images:
            continue
        place = f"{name}:{picture.line}"
        try:
            images = records.images_of(picture.name, reading)
        except ValueError as error:
            yield place, error
            continue
        if reading.task == "refer":
            for where, sample in _referring(key, images, coco_file, name):
                yield from records.attempt(where, lambda sample=sample: sample)
            continue

        def detection(key: Any = key, images: Any = images, place: str = place) -> Sample | None:
            return _detection(key, images, coco_file, _absent(key, coco_file, known, reading), place)

        yield from records.attempt(place, detection)


def read_instances(reading: Reading) -> Instances:
    """The file, read as a stream; invalid entries are collected with their lines."""
    coco_file, keys = Instances(), set[str]()
    for key, line, entry in elements(reading.path):
        keys.add(key)
        try:
            if isinstance(entry, ValueError):
                raise entry
            if key in _ENTRIES:
                if not isinstance(entry, dict):
                    raise ValueError(f"'{key}' has {records.shown(entry)}, expected objects")
                _ENTRIES[key](coco_file, line, entry)
        except ValueError as error:
            coco_file.bad.append((line, error))
        except records.BROKEN as error:
            coco_file.bad.append((line, ValueError(f"'{key}': {type(error).__name__}: {records.shown(str(error))}")))
    if missing := [key for key in _ENTRIES if key not in keys]:
        got = ", ".join(sorted(keys)) or "nothing"
        why = f"; {coco_file.bad[0][1]}" if coco_file.bad else ""
        raise ValueError(
            f"{reading.path}: has {got}, expected images, annotations and categories: {missing[0]} is missing or empty"
            f"{why}"
        )
    for image in [image for image in coco_file.by_image if image not in coco_file.pictures]:
        first = coco_file.by_image.pop(image)[0]
        coco_file.bad.append((first.line, ValueError(f"image_id {image!r} is not an image of this file")))
    for image, instances in coco_file.by_image.items():
        for one in [one for one in instances if one.category not in coco_file.labels]:
            instances.remove(one)
            why = f"category_id {one.category!r} is not a category of this file; image {image} is skipped"
            coco_file.bad.append((one.line, ValueError(why)))
            coco_file.invalid_images.add(image)
    return coco_file


def _picture(coco_file: Instances, line: int, entry: Row) -> None:
    negative = entry.get("neg_text") or entry.get("neg_category_ids") or ()
    coco_file.pictures[_id(entry, "id")] = Picture(
        line,
        records.field(entry, "file_name", str),
        tuple(_texts(entry.get("text") or ())),
        tuple(_texts(negative) if "neg_text" in entry else negative),
        tuple(entry.get("not_exhaustive_category_ids") or ()),
    )


def _instance(coco_file: Instances, line: int, entry: Row) -> None:
    image, category = _id(entry, "image_id"), _id(entry, "category_id")
    try:
        box = records.from_xywh(records.field(entry, "bbox", list))
    except ValueError as error:
        coco_file.invalid_images.add(image)
        raise type(error)(f"{error}; image {image} is skipped") from None
    coco_file.by_image[image].append(Instance(line, category, box, bool(entry.get("iscrowd", 0))))


def _category(coco_file: Instances, line: int, entry: Row) -> None:
    coco_file.labels[_id(entry, "id")] = records.field(entry, "name", str).strip()


_ENTRIES = {"images": _picture, "annotations": _instance, "categories": _category}


def _id(entry: Row, name: str) -> int | str:
    return records.field(entry, name, (int, str))


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(one) for one in value]


def _referring(key: Any, images: tuple[Any, ...], coco_file: Instances, name: str) -> Iterator[tuple[str, Sample]]:
    """A sample for each label with exactly one box."""
    counts = Counter(coco_file.labels[one.category] for one in coco_file.by_image[key])
    for one in coco_file.by_image[key]:
        label = coco_file.labels[one.category]
        if counts[label] == 1 and not one.crowd:
            place = f"{name}:{one.line}"
            meta = {"place": place, "label": label}
            yield place, Sample(f"{key}/{label}", images, REFER.format(label), one.box, "refer", meta)


def _detection(
    key: Any, images: tuple[Any, ...], coco_file: Instances, absent: Sequence[str], place: str
) -> Sample | None:
    """The sample of an image; None when there is no label to query."""
    picture = coco_file.pictures[key]
    skipped = {coco_file.labels.get(category) for category in picture.not_exhaustive}
    skipped |= {coco_file.labels[one.category] for one in coco_file.by_image[key] if one.crowd}
    kept = [one for one in coco_file.by_image[key] if coco_file.labels[one.category] not in skipped]
    present = {coco_file.labels[one.category] for one in kept} | (set(picture.positive) - skipped)
    labels = sorted({*present, *absent})
    if not labels:
        return None
    answer = [{"bbox_2d": list(one.box), "label": coco_file.labels[one.category]} for one in kept]
    meta = {"place": place, "labels": labels, "absent": sorted(set(absent) - present)}
    return Sample(str(key), images, DETECT.format(", ".join(labels)), answer, "detect", meta)


def _absent(key: Any, coco_file: Instances, known: Sequence[str], reading: Reading) -> list[str]:
    """1 to `negatives` labels that are not in the image, deterministic in the seed."""
    picture = coco_file.pictures[key]
    present = {coco_file.labels[one.category] for one in coco_file.by_image[key]} | set(picture.positive)
    present |= {coco_file.labels.get(category) for category in picture.not_exhaustive}
    named = [coco_file.labels.get(one, one) for one in picture.negative]
    pool = [label for label in (named or known) if isinstance(label, str) and label not in present]
    if not pool or not reading.negatives:
        return []
    random = Random(f"{reading.seed}/{key}")
    return random.sample(pool, min(len(pool), random.randint(1, reading.negatives)))


# -------------------------------------------------------------------------------------------------------------- refcoco


def refcoco(reading: Reading) -> Iterator[Item]:
    """Rows of RefCOCO, RefCOCO+ and RefCOCOg in three common schemas, distinguished by their fields.

    VLM-R1's evaluation files: `problem`, `solution` (xyxy). Qwen-VL's and InternVL's: `sent`, `bbox` (xyxy). The hub's
    (lmms-lab): `answer`, a list of expressions with a sample for each, and `bbox` (x, y, width, height).
    """

    def read(row: Row, place: str) -> list[Sample]:
        images = records.images_of(records.field(row, "image", (str, bytes, dict, list)), reading)
        expressions, question, box = _expressions(row)
        name = str(row.get("question_id", row.get("id", place)))
        ids = [name] if len(expressions) == 1 else [f"{name}/{k}" for k in range(len(expressions))]
        return [
            Sample(
                one, images, question.format(text), box, reading.task or "refer", {"place": place, "expression": text}
            )
            for one, text in zip(ids, expressions, strict=True)
        ]

    return records.each(table_rows(reading), read)


def _expressions(row: Row) -> tuple[list[str], str, Box]:
    """(expressions, question template, box) of a row."""
    if "solution" in row:
        problem = records.field(row, "problem", str).replace(records.MARKER, "").strip()
        expression = str(row.get("normal_caption") or problem).strip()
        return [expression], problem.replace("{", "{{").replace("}", "}}"), records.as_box(row["solution"])
    if "sent" in row:
        return [records.field(row, "sent", str).strip()], REFER, records.as_box(row.get("bbox"))
    answers = records.field(row, "answer", (list, str))
    found = [text.strip() for text in ([answers] if isinstance(answers, str) else answers) if isinstance(text, str)]
    if not any(found):
        raise ValueError("field 'answer': contains no expression; expected a list of texts (or 'sent', or 'problem')")
    return [text for text in found if text], REFER, records.from_xywh(row.get("bbox"))
