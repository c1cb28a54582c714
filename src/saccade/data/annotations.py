"""Folders of annotations: Pascal VOC (an XML file per image) and YOLO (a text file per image)."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from saccade.data import records
from saccade.data.images import SUFFIXES, ImageError, image_size
from saccade.data.instances import Instance, Instances, Picture, as_label, check_task, questions
from saccade.data.records import BoxError, Item, Reading
from saccade.data.roots import refuse_outside
from saccade.data.texts import LARGEST_LABELS, LARGEST_SETTINGS, lines_in, settings_of, text_in
from saccade.faults import listed, shown
from saccade.types import Box

MOST_BOXES = 1 << 15
"""Of one image; the fullest pictures of crowds have 20,000."""
MOST_AGAIN = 8 << 20
"""Bytes of files that a list may name again, and as many as those that it names."""
_NUMBER = re.compile(r"\d{1,9}")


# ----------------------------------------------------------------------------------------------------------- Pascal VOC


def voc(reading: Reading) -> Iterator[Item]:
    """A folder of Pascal VOC: `Annotations/*.xml`, `JPEGImages`, and the splits in `ImageSets/Main/*.txt`.

    `path` is the folder. `task`: see `instances.questions`. Boxes are taken as written, in pixels; objects marked
    `difficult` count like others.
    """
    check_task(reading, "Pascal VOC annotations")
    found = Instances()
    folder, again = _pictures_folder(reading), _Again()
    for name in dict.fromkeys(_names(reading)):
        file = reading.path / "Annotations" / f"{name}.xml"
        place = f"Annotations/{file.name}"
        try:
            again.note(file)
            refuse_outside(file, reading.roots)
            _read_xml(found, name, place, _parsed(file), folder)
        except ValueError as error:
            found.invalid_images.add(name)
            yield place, error
    yield from questions(found, reading)


@dataclass
class _Again:
    """Files that a list names again, in other words or by links: each is read again."""

    files: set[str] = field(default_factory=set)
    first: int = 0
    size: int = 0

    def note(self, file: Path) -> None:
        """ValueError when such files have more than MOST_AGAIN bytes and more than the others, and for what can be no
        name."""
        real = os.path.realpath(file)
        size, again = os.path.getsize(real) if os.path.isfile(real) else 0, real in self.files
        self.files.add(real)
        self.first, self.size = self.first + size * (not again), self.size + size * again
        if again and self.size > max(MOST_AGAIN, self.first):
            raise ValueError(f"it is named again, as files of {self.size >> 20:,} MB before it; name each once")


def _pictures_folder(reading: Reading) -> str:
    """The prefix of image names: they are relative to `image_folder`, by default the folder itself."""
    return "JPEGImages/" if reading.image_folder == reading.path and (reading.path / "JPEGImages").is_dir() else ""


def _names(reading: Reading) -> list[str]:
    """The names of the annotations of a split; of all when the folder has no splits."""
    folder = reading.path
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder; expected one with 'Annotations' of Pascal VOC")
    if not (folder / "Annotations").is_dir():
        raise ValueError(f"{folder}: there is no folder 'Annotations'; expected a folder of Pascal VOC")
    splits = sorted(file.stem for file in (folder / "ImageSets" / "Main").glob("*.txt"))
    if reading.split is None and len(splits) > 1:
        raise ValueError(f"{folder}: has the splits {listed(splits)}; set 'split' to one of them")
    split = reading.split or next(iter(splits), None)
    if split is None:
        return sorted(file.stem for file in (folder / "Annotations").glob("*.xml"))
    if split not in splits:
        raise ValueError(f"{folder}: there is no split {split!r}; it has {listed(splits)}")
    lines = lines_in(folder / "ImageSets" / "Main" / f"{split}.txt")
    fields = (line.split(maxsplit=2) for _, line in lines)
    names = [Path(one[0]) for one in fields if one[1:] != ["-1"]]
    return [
        one.stem if one.suffix.lower() in SUFFIXES else str(one) for one in names
    ]  # lists of one class mark the images without it with -1


def _parsed(file: Path) -> ElementTree.Element:
    text = text_in(file, LARGEST_LABELS)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("the file declares XML entities, which are refused; expected plain Pascal VOC")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML: {error}") from None


def _read_xml(found: Instances, name: str, place: str, root: ElementTree.Element, folder: str) -> None:
    image = (root.findtext("filename") or "").strip()
    if not image:
        raise ValueError("<filename> is missing or empty")
    image = image if Path(image).suffix.lower() in SUFFIXES else f"{image}.jpg"
    size = [root.findtext(f"size/{side}") for side in ("width", "height")]
    known = [int(side) for side in size if side is not None and _NUMBER.fullmatch(side.strip())]
    instances = []
    for number, one in enumerate(root.iter("object"), 1):
        _refuse_many(number)
        try:
            label = as_label(one.findtext("name") or "")
        except ValueError as error:
            raise ValueError(f"object {number}: <name>: {error}") from None
        found.labels.setdefault(label, label)
        instances.append(Instance(place, label, _corners(one, number)))
    found.pictures[name] = Picture(
        place, folder + image, (known[0], known[1]) if len(known) == 2 and all(known) else None
    )
    found.by_image[name] = instances


def _corners(one: ElementTree.Element, number: int) -> Box:
    texts = [one.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        return records.as_box([float(text or "") for text in texts])
    except ValueError as error:
        reason = error if isinstance(error, BoxError) else f"<bndbox> has {shown(texts)}, expected four numbers"
        raise BoxError(f"object {number}: {reason}") from None


# ----------------------------------------------------------------------------------------------------------------- YOLO


def yolo(reading: Reading) -> Iterator[Item]:
    """A data set of YOLO: `path` is its `data.yaml`, or the folder of it. Lines of label files are `class x y w h` as
    shares of the image (center and size), or `class x1 y1 x2 y2 ..`, a polygon, whose enclosing box is used.

    `split` is `train` by default. `task`: see `instances.questions`. An image without a label file has no objects.
    """
    check_task(reading, "YOLO labels")
    file = _config(reading.path)
    config = settings_of(text_in(file, LARGEST_SETTINGS), str(file))
    names, points = _class_names(config, file), _keypoints(config, file)
    found = Instances(labels=dict(enumerate(names)))
    images = _split_images(config, file, reading)
    if not any(os.path.isfile(_label_file(image)) for _, image in images):
        raise ValueError(f"{file}: no image has a label file; expected such as {_label_file(images[0][1])}")
    again = _Again()
    for listed_at, image in images:
        place, name = listed_at, shown(str(image))
        try:
            if hint := records.no_file_name(str(image)):
                raise ImageError(f"image {hint}")
            labels = _label_file(image)
            place, name = os.path.relpath(labels, file.parent), _relative(image, reading.image_folder)
            if name in found.pictures or name in found.invalid_images:
                continue
            (path,) = records.image_paths(name, reading)
            found.pictures[name] = Picture(place, name)
            if os.path.lexists(labels):  # an image without a label file has no objects; a link to nothing is a fault
                refuse_outside(labels, reading.roots)
                again.note(labels)
                size = image_size(path, reading.max_image_pixels)
                found.by_image[name] = _read_labels(labels, place, size, len(names), points)
        except ValueError as error:
            found.invalid_images.add(name)
            yield listed_at if isinstance(error, ImageError) else place, error
    yield from questions(found, reading)


def yolo_files(reading: Reading) -> list[Path]:
    """The images of a split of a data set, and their label files."""
    file = _config(reading.path)
    images = _split_images(settings_of(text_in(file, LARGEST_SETTINGS), str(file)), file, reading)
    return [one for _, image in images for one in (image, _label_file(image))]


def _config(path: Path) -> Path:
    """The YAML file of a data set."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"{path}: there is no such file or folder; expected the data.yaml of a YOLO data set")
    files = [file for file in (path / "data.yaml", path / "dataset.yaml") if file.is_file()] or sorted(
        path.glob("*.yaml")
    )
    if len(files) != 1:
        raise ValueError(
            f"{path}: expected the data.yaml of a YOLO data set or its folder, found {len(files)} YAML files"
        )
    return files[0]


def _class_names(config: dict[str, Any], file: Path) -> list[str]:
    names = config.get("names")
    if isinstance(names, dict) and set(names) == {str(i) for i in range(len(names))}:
        names = [names[str(i)] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(one, str) and one.strip() for one in names):
        raise ValueError(f"{file}: 'names' is {shown(names)}, expected a list of class names, or 0: name, ...")
    try:
        return list(map(as_label, names))
    except ValueError as error:
        raise ValueError(f"{file}: 'names': {error}") from None


def _keypoints(config: dict[str, Any], file: Path) -> int:
    """Numbers of a label behind its box, in data of poses."""
    shape = config.get("kpt_shape") or []
    numbers = isinstance(shape, list) and all(isinstance(one, str) and _NUMBER.fullmatch(one) for one in shape)
    if not numbers or len(shape) not in (0, 2):
        raise ValueError(f"{file}: 'kpt_shape' is {shown(shape)}, expected [number of points, 2 or 3]")
    return math.prod(map(int, shape)) if shape else 0


def _split_images(config: dict[str, Any], file: Path, reading: Reading) -> list[tuple[str, Path]]:
    """The image files of the split in order, each with the place that names it."""
    split = reading.split or "train"
    given = config.get(split) or (config.get("valid") if split == "val" else None)
    if given is None:
        splits = [key for key in ("train", "val", "valid", "test") if config.get(key)]
        raise ValueError(f"{file}: there is no split {split!r}; it has {listed(splits)}")
    folder, parts = config.get("path") or "", given if isinstance(given, list) else [given]
    if odd := [one for one in (folder, *parts) if not isinstance(one, str) or "\0" in one]:
        raise ValueError(f"{file}: 'path' or '{split}' is {shown(odd[0])}, expected the name of a file or folder")
    root = file.parent / folder
    if not os.path.isdir(root):
        root = file.parent  # `path` names the folder from where YOLO is run
    images: list[tuple[str, Path]] = []
    for one in parts:
        places = (root / one, file.parent / one.removeprefix("../"))
        place = next((place for place in places if os.path.exists(place)), None)  # False for what can be no name
        if place is None:
            raise ValueError(f"{file}: '{split}' is {shown(one)}, but {shown(str(places[0]))} does not exist")
        refuse_outside(place, reading.roots)
        if place.is_dir():
            inside = sorted(one for one in place.rglob("*") if one.suffix.lower() in SUFFIXES)
            images += [(os.path.relpath(image, file.parent), image) for image in inside]
        else:
            lines = lines_in(place)
            images += [(f"{place.name}:{number}", place.parent / line.strip()) for number, line in lines]
    if not images:
        raise ValueError(f"{file}: split {split!r} has no images in {shown(given)}")
    return images


def _label_file(image: Path) -> Path:
    """labels/../x.txt of images/../x.jpg."""
    parts = list(image.parts)
    for i in reversed(range(len(parts))):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(f"{os.path.splitext(Path(*parts))[0]}.txt")


def _relative(file: Path, folder: Path) -> str:
    """The name of a file below a folder, with links followed where it is not plainly inside, else its full one."""
    if file.is_relative_to(folder) and ".." not in (plain := file.relative_to(folder)).parts:
        return str(plain)
    real, base = (Path(os.path.realpath(one)) for one in (file, folder))
    return str(real.relative_to(base) if real.is_relative_to(base) else real)


def _read_labels(file: Path, place: str, size: tuple[int, int], classes: int, points: int) -> list[Instance]:
    found = []
    for number, line in lines_in(file, LARGEST_LABELS):
        _refuse_many(number)
        where = f"{place}:{number}"
        try:
            cells = line.split()
            if points and len(cells) != 5 + points:
                raise ValueError(f"got {len(cells)} numbers, expected {5 + points} with those of kpt_shape")
            category, box = _label(cells[:5] if points else cells, size, classes)
        except ValueError as error:
            raise type(error)(f"line {number}: {error}; the image is skipped") from None
        found.append(Instance(where, category, box))
    return found


def _refuse_many(boxes: int) -> None:
    if boxes > MOST_BOXES:
        raise ValueError(f"got more than {MOST_BOXES:,} boxes, expected those of one image")


def _label(cells: list[str], size: tuple[int, int], classes: int) -> tuple[int, Box]:
    polygon = len(cells) >= 7 and len(cells) % 2 == 1
    if len(cells) != 5 and not polygon:
        raise ValueError(f"got {len(cells)} numbers, expected 'class x y width height' or 'class x1 y1 x2 y2 ..'")
    number = re.fullmatch(r"(\d{1,6})(?:\.0{1,20})?", cells[0], re.ASCII)
    if number is None or int(number[1]) >= classes:
        raise ValueError(f"got the class {cells[0][:40]!r}, expected a number from 0 to {classes - 1}")
    try:
        numbers = [float(cell) for cell in cells[1:]]
    except ValueError:
        raise BoxError(f"got {shown(cells[1:])}, expected numbers") from None
    if not all(math.isfinite(v) and -1e-3 <= v <= 1 + 1e-3 for v in numbers):
        raise BoxError(f"got {numbers[:4]}, expected shares of the image from 0 to 1")
    xs, ys = numbers[::2], numbers[1::2]
    if not polygon:
        (x, w), (y, h) = xs, ys
        xs, ys = [x - w / 2, x + w / 2], [y - h / 2, y + h / 2]
    ends = [min(1.0, max(0.0, v)) for v in (min(xs), min(ys), max(xs), max(ys))]
    return int(number[1]), (ends[0] * size[0], ends[1] * size[1], ends[2] * size[0], ends[3] * size[1])
