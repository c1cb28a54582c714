"""Images with labeled boxes, in whatever annotation format, and the questions made of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from saccade.data import records
from saccade.data.records import Item, Reading
from saccade.tasks import write_question
from saccade.types import Box, Sample

REFER = write_question("refer", expression="{}")
DETECT = (
    "Detect every one of these objects in the image: {}. Answer with a JSON list of "
    '{{"bbox_2d": [x1, y1, x2, y2], "label": "..."}}; some may be absent, the list is empty when none is there.'
)
COUNT = "How many objects with the label '{}' are in the image?"
TASKS = ("detect", "refer", "count")
"""What can be asked about images with boxes."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of an annotation file."""

    place: str
    name: str
    size: tuple[int, int] | None = None
    """(width, height) as the annotation says, in pixels."""
    positive: tuple[str, ...] = ()
    """OVDEval's `text`: labels to query in addition to those with boxes."""
    negative: tuple[Any, ...] = ()
    """OVDEval's `neg_text` (labels) or LVIS' `neg_category_ids`: known to be absent."""
    not_exhaustive: tuple[Any, ...] = ()
    """LVIS' `not_exhaustive_category_ids`: categories whose objects do not all have boxes."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A box of an image."""

    place: str
    category: Any
    box: Box
    crowd: bool = False


@dataclass
class Instances:
    """The images of an annotation file or folder with their boxes, without masks."""

    pictures: dict[Any, Picture] = field(default_factory=dict)
    labels: dict[Any, str] = field(default_factory=dict)
    by_image: defaultdict[Any, list[Instance]] = field(default_factory=lambda: defaultdict(list))
    bad: list[tuple[str, ValueError]] = field(default_factory=list)
    invalid_images: set[Any] = field(default_factory=set)
    """Images with an invalid annotation: their gold answers would be incomplete."""


def check_task(reading: Reading, what: str) -> None:
    if reading.task not in (None, *TASKS):
        raise ValueError(f"task {reading.task!r} cannot be made of {what}; expected one of {', '.join(TASKS)}")


def questions(found: Instances, reading: Reading) -> Iterator[Item]:
    """The samples of all images, and a ValueError for each invalid entry; `reading.task` selects them.

    `detect` (the default): a sample per image with all its boxes, queried together with 1 to `negatives` absent labels,
    as VLM-R1 did for D3. These are known negatives if the file has them, else labels of other images, drawn with
    `seed`. `refer`: a sample per label with exactly one box in its image. `count`: a sample per label of the image, and
    per absent label drawn in the same way. Crowds and labels that are not annotated exhaustively are not queried.
    """
    yield from found.bad
    known = sorted(set(found.labels.values()))
    for key, picture in found.pictures.items():
        if key in found.invalid_images:
            continue
        try:
            images = records.images_of(picture.name, reading)
        except ValueError as error:
            yield picture.place, error
            continue
        if reading.task == "refer":
            yield from _referring(key, images, found)
        elif reading.task == "count":
            yield from _counting(key, images, found, absent(key, found, known, reading))
        else:
            sample = _detection(key, images, found, absent(key, found, known, reading))
            if sample is not None:
                yield picture.place, sample


def _meta(found: Instances, key: Any, place: str) -> dict[str, Any]:
    size = found.pictures[key].size
    return {"place": place} | ({"annotated_size": list(size)} if size else {})


def _referring(key: Any, images: tuple[Any, ...], found: Instances) -> Iterator[tuple[str, Sample]]:
    """A sample for each label with exactly one box."""
    counts = Counter(found.labels[one.category] for one in found.by_image[key])
    for one in found.by_image[key]:
        label = found.labels[one.category]
        if counts[label] == 1 and not one.crowd:
            meta = _meta(found, key, one.place) | {"label": label}
            yield one.place, Sample(f"{key}/{label}", images, REFER.format(label), one.box, "refer", meta)


def _counting(key: Any, images: tuple[Any, ...], found: Instances, absent: Sequence[str]) -> Iterator[Item]:
    """A sample for each label of the image, and for the absent ones."""
    kept, present = _queried(key, found)
    counts = Counter(found.labels[one.category] for one in kept)
    place = found.pictures[key].place
    for label in sorted({*present, *absent}):
        meta = _meta(found, key, place) | {"label": label}
        yield place, Sample(f"{key}/{label}", images, COUNT.format(label), counts[label], "count", meta)


def _detection(key: Any, images: tuple[Any, ...], found: Instances, absent: Sequence[str]) -> Sample | None:
    """The sample of an image; None when there is no label to query."""
    kept, present = _queried(key, found)
    labels = sorted({*present, *absent})
    if not labels:
        return None
    answer = [{"bbox_2d": list(one.box), "label": found.labels[one.category]} for one in kept]
    meta = _meta(found, key, found.pictures[key].place) | {"labels": labels, "absent": sorted(set(absent) - present)}
    return Sample(str(key), images, DETECT.format(", ".join(labels)), answer, "detect", meta)


def _queried(key: Any, found: Instances) -> tuple[list[Instance], set[str]]:
    """The boxes of an image whose labels can be asked for, and these labels."""
    picture = found.pictures[key]
    skipped = {found.labels.get(category) for category in picture.not_exhaustive}
    skipped |= {found.labels[one.category] for one in found.by_image[key] if one.crowd}
    kept = [one for one in found.by_image[key] if found.labels[one.category] not in skipped]
    return kept, {found.labels[one.category] for one in kept} | (set(picture.positive) - skipped)


def absent(key: Any, found: Instances, known: Sequence[str], reading: Reading) -> list[str]:
    """1 to `negatives` labels that are not in the image, deterministic in the seed."""
    picture = found.pictures[key]
    present = {found.labels[one.category] for one in found.by_image[key]} | set(picture.positive)
    present |= {found.labels.get(category) for category in picture.not_exhaustive}
    named = [found.labels.get(one, one) for one in picture.negative]
    pool = [label for label in (named or known) if isinstance(label, str) and label not in present]
    if not pool or not reading.negatives:
        return []
    random = Random(f"{reading.seed}/{key}")
    return random.sample(pool, min(len(pool), random.randint(1, reading.negatives)))
