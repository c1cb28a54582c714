"""Images with labeled boxes, in whatever annotation format, and the questions made of them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from saccade.data import records
from saccade.data.records import Item, Reading
from saccade.data.usable import LONGEST_NAME
from saccade.faults import listed, shown
from saccade.tasks import write_question
from saccade.types import Box, Sample

REFER = write_question("refer", expression="{}")
DETECT = (
    "Detect every one of these objects in the image: {}. Answer with a JSON list of "
    '{{"bbox_2d": [x1, y1, x2, y2], "label": "..."}}; some may be absent, the list is empty when none is there.'
)
COUNT = "How many objects with the label '{}' are in the image?"
MORE_THAN = "Are there more than {} objects with the label '{}' in the image?"
TASKS = ("detect", "refer", "count", "more_than")
"""What can be asked about images with boxes."""
RARER = 1 / 3
"""`more_than`: the smallest share of the images in which the rarer of yes and no is right."""


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
    parents: set[Any] = field(default_factory=set)
    """COCO's supercategories. Those without boxes of their own, which Roboflow lists as categories, are no labels."""
    by_image: defaultdict[Any, list[Instance]] = field(default_factory=lambda: defaultdict(list))
    invalid_images: set[Any] = field(default_factory=set)
    """Images with an invalid annotation: their gold answers would be incomplete."""


def as_label(text: str) -> str:
    """The name of a label without blanks around it. ValueError for an empty one and for more than LONGEST_NAME."""
    if not 0 < len(label := text.strip()) <= LONGEST_NAME:
        raise ValueError(f"a label is {shown(text)}, expected a name of 1 to {LONGEST_NAME:,} characters")
    return label


def check_task(reading: Reading, what: str) -> None:
    if reading.task not in (None, *TASKS):
        raise ValueError(f"task {reading.task!r} cannot be made of {what}; expected one of {', '.join(TASKS)}")


def questions(found: Instances, reading: Reading) -> Iterator[Item]:
    """The samples of all images, and a ValueError for each that cannot be read; `reading.task` selects them.

    `detect` (the default): a sample per image with all its boxes, queried together with 1 to `negatives` absent labels,
    as VLM-R1 did for D3. These are known negatives if the file has them, else labels of other images, drawn with
    `seed`. `refer`: a sample per label with exactly one box in its image. `count`: a sample per label of the image, and
    per absent label drawn in the same way. `more_than`: yes or no about a number, a sample per label that has one, see
    `thresholds`; the number is drawn with `seed`. Crowds and labels that are not annotated exhaustively are not
    queried, with `labels` no others than these.
    """
    if reading.labels:
        restrict(found, reading.labels)
    known = sorted(set(found.labels.values()))
    numbers = _numbers(found, known, reading.labels) if reading.task == "more_than" else {}
    asked_for = [label for label in known if numbers.get(label)]
    for key, picture in found.pictures.items():
        if key in found.invalid_images:
            continue
        try:
            images = records.images_of(picture.name, reading)
        except ValueError as error:
            yield picture.place, error
            continue

        def asked(key: Any = key, images: Any = images, place: str = picture.place) -> Iterable[tuple[str, Sample]]:
            if reading.task == "refer":
                return _referring(key, images, found)
            if reading.task == "more_than":
                return _exceeding(key, images, found, asked_for, numbers, reading)
            labels = absent(key, found, known, reading)
            if reading.task == "count":
                return _counting(key, images, found, labels)
            sample = _detection(key, images, found, labels)
            return [] if sample is None else [(place, sample)]

        yield from records.attempt_placed(picture.place, asked)


def restrict(found: Instances, labels: Sequence[str]) -> None:
    """Forget all other labels. ValueError for one that no image has."""
    wanted = set(labels)
    known = {*found.labels.values(), *(label for one in found.pictures.values() for label in one.positive)}
    if unknown := sorted(wanted - known):
        raise ValueError(f"labels: got {listed(unknown)}; the annotations have {listed(sorted(known))}")
    for key, some in found.by_image.items():
        found.by_image[key] = [one for one in some if found.labels[one.category] in wanted]
    for key, picture in found.pictures.items():
        found.pictures[key] = replace(picture, positive=tuple(one for one in picture.positive if one in wanted))
    found.labels = {category: label for category, label in found.labels.items() if label in wanted}


def thresholds(seen: Mapping[str, Counter[int]]) -> dict[str, list[int]]:
    """Label -> the numbers N for which "more than N" is true in a third to two thirds of the images, so that neither
    yes nor no is a good guess. `seen` has, for each label, how many images have which number of its objects."""
    numbers: dict[str, list[int]] = {}
    for label, images in sorted(seen.items()):
        numbers[label], more = [], images.total()
        for n in range(max(images, default=0)):
            more -= images[n]
            if RARER <= more / images.total() <= 1 - RARER:
                numbers[label].append(n)
    return numbers


def _numbers(found: Instances, known: Sequence[str], labels: Sequence[str]) -> dict[str, list[int]]:
    """The numbers to ask about for each label. ValueError when there are none."""
    seen: defaultdict[str, Counter[int]] = defaultdict(Counter)
    keys, rest = found.pictures.keys() - found.invalid_images, 0
    for key in keys:
        named = _named(key, found, labels)
        for label, number in (_counts(key, found) | dict.fromkeys(named or (), 0)).items():
            seen[label][number] += 1
        if named is None:  # all labels that it does not mention are absent: too many to go through for each image
            rest += 1
            for label in _mentioned(key, found):
                seen[label][0] -= 1
    for label in known:
        seen[label][0] += rest
    numbers = thresholds({label: +images for label, images in seen.items()})
    if keys and not any(numbers.values()):
        raise ValueError(
            "task 'more_than': no label has a number that between a third and two thirds of the images exceed, so that "
            "yes or no could be guessed; use task 'count'"
        )
    return numbers


def _counts(key: Any, found: Instances) -> dict[str, int]:
    """The objects of each label of an image that can be asked for."""
    kept, present = _queried(key, found)
    counts = Counter(found.labels[one.category] for one in kept)
    return {label: counts[label] for label in present}


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


def _counting(
    key: Any, images: tuple[Any, ...], found: Instances, absent: Sequence[str]
) -> Iterator[tuple[str, Sample]]:
    """A sample for each label of the image, and for the absent ones."""
    kept, present = _queried(key, found)
    counts = Counter(found.labels[one.category] for one in kept)
    place = found.pictures[key].place
    for label in sorted({*present, *absent}):
        meta = _meta(found, key, place) | {"label": label}
        yield place, Sample(f"{key}/{label}", images, COUNT.format(label), counts[label], "count", meta)


def _exceeding(
    key: Any,
    images: tuple[Any, ...],
    found: Instances,
    known: Sequence[str],
    numbers: Mapping[str, Sequence[int]],
    reading: Reading,
) -> Iterator[tuple[str, Sample]]:
    """A sample for each label with a number to ask about; `known` are those of all images."""
    place, counts, named = found.pictures[key].place, _counts(key, found), _named(key, found, reading.labels)
    for label in sorted({*counts, *(set(known) - _mentioned(key, found) if named is None else named)}):
        if numbers[label]:
            number, asked = counts.get(label, 0), Random(f"{reading.seed}/{key}/{label}").choice(numbers[label])
            meta = _meta(found, key, place) | {"label": label, "count": number, "more_than": asked}
            answer = "yes" if number > asked else "no"
            yield (
                place,
                Sample(f"{key}/{label}>{asked}", images, MORE_THAN.format(asked, label), answer, "yes_no", meta),
            )


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
    """1 to `negatives` labels that are not in the image, deterministic in the seed: of those that the file names, else
    of all others of `known`, which is sorted."""
    named, skipped = _named(key, found, reading.labels), list[int]()
    if named is None:
        places = ((bisect_left(known, label), label) for label in _mentioned(key, found))
        skipped = sorted(place for place, label in places if known[place : place + 1] == [label])
    pool = range(len(known) - len(skipped)) if named is None else range(len(named))
    if not pool or not reading.negatives:
        return []
    random = Random(f"{reading.seed}/{key}")
    drawn = random.sample(pool, min(len(pool), random.randint(1, reading.negatives)))
    for place in skipped:  # no list of the others is made, since each image has nearly all
        drawn = [one + (one >= place) for one in drawn]
    return [(known if named is None else named)[one] for one in drawn]


def _mentioned(key: Any, found: Instances) -> set[str]:
    """The labels of an image's boxes, and those that the file says are, or may be, in it."""
    picture = found.pictures[key]
    some = {found.labels[category] for category in picture.not_exhaustive if category in found.labels}
    return some | {found.labels[one.category] for one in found.by_image[key]} | set(picture.positive)


def _named(key: Any, found: Instances, labels: Sequence[str]) -> list[str] | None:
    """The labels that the file names as absent from an image, with `labels` of these only; None without any."""
    picture = found.pictures[key]
    if not picture.negative:
        return None
    mentioned, named = _mentioned(key, found), [found.labels.get(one, one) for one in picture.negative]
    return [one for one in named if isinstance(one, str) and one not in mentioned and (not labels or one in labels)]
