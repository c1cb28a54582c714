"""Shared by all formats: rows with their places, required fields, image checks, boxes, markers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from saccade.data.images import MAX_PIXELS, ImageError, encoded_image, image_size, is_picture, refuse_together
from saccade.data.json_stream import decoded
from saccade.data.roots import refuse_outside
from saccade.data.usable import LARGEST_ROW, is_finite, refuse_unusable
from saccade.disk import skip_hole
from saccade.faults import listed, no_file, shown
from saccade.types import Box, ImageSource, Sample

Row = dict[str, Any]


class PartlyRead(Row):
    """A row some of whose columns are not read: looking for one of them is a ValueError, since it may not count as
    absent."""

    def __init__(self, row: Row, left_out: Mapping[str, str], times: Mapping[str, str] | None = None) -> None:
        """`left_out`: name of a column -> why; `times`: the same of those that cannot hold images: times, classes."""
        super().__init__(row)
        before = row if isinstance(row, PartlyRead) else None
        self._left_out: dict[str, str] = {**(before._left_out if before else {}), **left_out}
        self._times: dict[str, str] = {**(before._times if before else {}), **(times or {})}

    def refuse(self) -> None:
        """ValueError for the first column that may hold images."""
        for why in self._left_out.values():
            way = "remove it (source table: or say that there are none, image: [])"
            raise ValueError(f"{why}; the column is not read, and no other holds images; {way}")

    def __or__(self, other: Any) -> Any:
        return PartlyRead(super().__or__(other), self._left_out, self._times)

    def __ror__(self, other: Any) -> Any:
        return PartlyRead(super().__ror__(other), self._left_out, self._times)

    def __contains__(self, name: object) -> bool:
        if (why := self._left_out.get(str(name))) is not None:
            raise ValueError(f"{why}; the column is not read; write it again with smaller values")
        if (why := self._times.get(str(name))) is not None:
            raise ValueError(f"{why}; write it as text, or name another column")
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, default) if name in self else default


Placed = tuple[str, Row | ValueError]
"""A place such as `train.jsonl:418` and its row, or the error of reading it."""
Item = tuple[str, Sample | ValueError]
"""The result of reading a row: its place and a sample, or the error."""
MARKER = "<image>"
LONGEST_PATH = 4096
FARTHEST = 1e9
"""Pixels from the corner of an image, beyond which a number is no coordinate."""
MOST_NAMES = 1 << 16
BROKEN = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What reading a row can raise when its values are of other types and sizes than expected."""
VIDEO, AUDIO = "<video>", "<audio>"
UNSUPPORTED = {
    "video": "videos are not supported, use single frames as images",
    "audio": "audio is not supported",
    "speech": "audio is not supported",
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
    """Boxes: maximum number of absent labels per image."""
    labels: tuple[str, ...] = ()
    """Boxes: only these labels are asked for; all when empty."""
    seed: int = 0
    """Boxes: seed for drawing absent labels, and the numbers of `more_than`."""
    max_image_pixels: int = MAX_PIXELS
    """Maximum width * height of an image."""
    roots: tuple[Path, ...] | None = None
    """Folders that image files must be in; None: anywhere."""
    columns: Mapping[str, str | list[str]] = dataclass_field(default_factory=dict)
    """Source `table`: what a column is -> its name."""
    checked: dict[str, str] = dataclass_field(default_factory=dict)
    """Names of images whose header has been checked, MOST_NAMES at most -> their paths."""


def each(
    rows: Iterable[Placed], read: Callable[[Row, str], Sample | Iterable[Sample]], pictured: bool = True
) -> Iterator[Item]:
    """The samples of every row; an error of `read`, or of what it read, takes the place of the row. With `pictured`, so
    does the error of a row whose image is in a column that `read` does not read."""

    def found(row: Row, place: str) -> Iterator[Sample]:
        result, pictures, last = read(row, place), 0, None
        for last in [result] if isinstance(result, Sample) else result:  # one by one: each may take much memory
            pictures += len(last.images)
            yield last
        if pictured and last is not None and not pictures:
            _refuse_unread(row, last)

    for place, row in rows:
        if isinstance(row, ValueError):
            yield place, row
        else:
            yield from attempt(place, lambda row=row, place=place: found(row, place))


def _refuse_unread(row: Row, sample: Sample) -> None:
    """ValueError for an image in a row of whose columns none was read as one, and where a column cannot be read."""
    if isinstance(row, PartlyRead):
        row.refuse()
    for name, value in row.items():
        if is_picture(value) and value not in (sample.id, sample.question, sample.answer):
            raise ValueError(
                f"column '{name}' holds an image, which is not read; remove it, or name it (source table, columns: "
                f"{{image: {name}}}; [] reads none)"
            )


def attempt(place: str, read: Callable[[], Sample | Iterable[Sample] | None]) -> list[Item]:
    """The samples that `read` returns, or the error of reading them."""

    def placed() -> Iterator[tuple[str, Sample]]:
        result = read()
        yield from ((place, one) for one in ([result] if isinstance(result, Sample) else result or ()))

    return attempt_placed(place, placed)


def attempt_placed(place: str, read: Callable[[], Iterable[tuple[str, Sample]]]) -> list[Item]:
    """What `read` returns, or the error of reading it: a row whose values have unexpected types or sizes never ends
    more than itself."""
    try:
        found: list[Item] = []
        for where, sample in read():
            refuse_unusable(sample)
            found.append((where, sample))
        return found
    except ValueError as error:
        return [(place, error.with_traceback(None))]  # a traceback would keep the row in memory
    except BROKEN as error:
        return [(place, ValueError(f"the row cannot be read ({type(error).__name__}: {shown(str(error))})"))]


def jsonl_rows(path: Path) -> Iterator[Placed]:
    """(place, row) of every non-empty line; a line that is not a JSON object yields the error to raise."""
    if not path.is_file():
        raise ValueError(f"{path}: {no_file(path)}")
    with path.open("rb") as lines:
        for number in count(1):
            line = lines.readline(LARGEST_ROW + 1)
            if not line:
                return
            if len(line) > LARGEST_ROW:
                while line and not line.endswith(b"\n"):
                    skip_hole(lines)
                    line = lines.readline(LARGEST_ROW)
                yield f"{path.name}:{number}", ValueError(f"more than {LARGEST_ROW >> 20} MB in one line; shorten it")
            elif line.strip():
                yield f"{path.name}:{number}", _row(line)


def _row(line: bytes) -> Row | ValueError:
    try:
        row = decoded(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return ValueError(f"not UTF-8 text ({error.reason} at byte {error.start}); save the file as UTF-8")
    except json.JSONDecodeError as error:
        return ValueError(f"not JSON ({error.msg} at column {error.colno}); expected one object per line")
    except ValueError as error:  # an integer of thousands of digits, a key twice
        return ValueError(f"unreadable JSON: {error}")
    except RecursionError:
        return ValueError("unreadable JSON: nested too deeply")
    return row if isinstance(row, dict) else ValueError(f"got a JSON {type(row).__name__}, expected an object")


def text_of(value: Any, what: str) -> str:
    """A text, or a number as one; bytes as UTF-8, as tables of other programs hold texts. ValueError for all else."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")  # refused with the row
    if not isinstance(value, str | int | float | Decimal):
        raise ValueError(f"{what} is {shown(value)}, expected a text")
    return str(value)


def field(row: Row, name: str, kind: type[T] | tuple[type[T], ...]) -> T:
    """`row[name]`; raises ValueError when it is missing or of another type."""
    if name not in row:
        raise ValueError(f"field '{name}' is missing; the row has {listed(row)}")
    if not isinstance(row[name], kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise ValueError(f"field '{name}': got {shown(row[name])}, expected {' or '.join(k.__name__ for k in kinds)}")
    return row[name]


def image_paths(names: str | Sequence[str], reading: Reading) -> tuple[str, ...]:
    """Paths below `reading.image_folder`; the header of each file is read (once, see `checked`), so that a bad file is
    found before any long work. Raises ValueError, also for a file outside `reading.roots`."""
    found = []
    for name in [names] if isinstance(names, str) else names:
        if isinstance(name, str) and name in reading.checked:
            found.append(reading.checked[name])
            continue
        if hint := no_file_name(name):
            raise ImageError(f"image {hint}")
        path = str(reading.image_folder / name)
        refuse_outside(path, reading.roots)  # before anything opens it
        image_size(path, reading.max_image_pixels)
        if len(reading.checked) < MOST_NAMES:
            reading.checked[name] = path
        found.append(path)
    refuse_together(found, reading.max_image_pixels)
    return tuple(found)


def no_file_name(name: Any) -> str | None:
    """Why a value is not the name of an image file, as far as its form shows."""
    if not isinstance(name, str) or not name or "\0" in name:
        return f"is {shown(name)}, expected a file name"
    if len(name) > LONGEST_PATH:
        return f"is {name[:24]!r}... ({len(name):,} characters), expected a file name, or an image in base64"
    if found := re.match(r"(https?|file|s3|gs):/", name):
        return f"is {shown(name)}, an address ({found[1]}); download it first, expected a file name"
    if re.match(r"[A-Za-z]:\\", name):
        return f"is {shown(name)}, a Windows path; expected a file name relative to image_folder"
    return None


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
            image_size(content, reading.max_image_pixels)
            images.append(content)
        elif isinstance(name, str) and name:
            images.extend(image_paths(name, reading))
        else:
            raise ValueError(f"got {shown(one)} for an image, expected a file name, bytes or {{'bytes', 'path'}}")
    refuse_together(images, reading.max_image_pixels)
    return tuple(images)


def untagged(text: Any) -> Any:
    """The inside of the first answer block of a text, stripped; other values as they are. Linear."""
    start = text.find("<answer>") if isinstance(text, str) else -1
    end = text.find("</answer>", start) if start >= 0 else -1
    return text[start + len("<answer>") : end].strip() if end >= 0 else text


def options_of(row: Row) -> Any:
    """The options of a question in the row's column of that name; () without one."""
    return next((row[key] for key in ("options", "choices") if row.get(key)), ())


def system_of(row: Row) -> str | None:
    """The system turn in the row's column of that name; None without one. ValueError for what is no text."""
    turn = next((row[key] for key in ("system", "system_prompt") if row.get(key)), None)
    return None if turn is None else text_of(turn, "the system turn")


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
        expected = f"0 or {images}" if images else "none, or an image"
        raise ValueError(f"the question has {got} {MARKER} markers for {images} images; expected {expected}")
    return question


def _are_four(value: Any) -> bool:
    """Whether a value is four numbers that can be places in an image."""
    numbers = (
        isinstance(value, list | tuple) and len(value) == 4 and all(type(v) in (int, float, Decimal) for v in value)
    )
    return numbers and all(is_finite(v) and abs(v) <= FARTHEST for v in value)


def as_box(value: Any) -> Box:
    """Four numbers as an xyxy box; raises BoxError."""
    if not _are_four(value):
        raise BoxError(f"answer {shown(value)} is not a box; expected [x1, y1, x2, y2] in image pixels")
    x1, y1, x2, y2 = (float(v) for v in value)
    if x1 > x2 or y1 > y2:
        raise BoxError(f"answer box {list(value)} has x1 > x2 or y1 > y2; expected xyxy in image pixels, not xywh")
    return (x1, y1, x2, y2)


def from_xywh(value: Any) -> Box:
    """COCO's x, y, width, height as an xyxy box; raises BoxError."""
    if not _are_four(value):
        raise BoxError(f"bbox {shown(value)} is not a box; expected [x, y, width, height] in image pixels")
    x, y, width, height = (float(v) for v in value)
    if width < 0 or height < 0:
        raise BoxError(f"bbox {list(value)} has a negative width or height; expected [x, y, width, height]")
    return (x, y, x + width, y + height)
