"""Which format and which columns a user's file has, from its first rows."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from pydantic import ValidationError

from saccade.data.dialogues import METHOD
from saccade.data.files import table_rows
from saccade.data.images import SUFFIXES, is_picture
from saccade.data.records import Reading
from saccade.data.sources import DataConfig, items
from saccade.data.tables import FIELDS
from saccade.tasks import TASKS
from saccade.types import Sample

FORMATS = ("saccade", "gui_r1", "verl", "ms_swift", "trl", "math_vision", "easy_r1", "llava", "vlm_r1", "table")
"""Formats of rows that are tried, the most particular first; `table` reads any row whose columns are known."""
FOLDERS = ("geometry3k", "voc", "yolo", "saccade", "table")
"""Formats of folders that are tried."""
LOOKED_AT = 40
"""Rows that are read."""
NAMES = {
    "image": ("image", "images", "file_name", "filename", "file", "image_path", "img", "img_path", "picture", "path"),
    "question": ("question", "prompt", "query", "problem", "instruction", "text", "input"),
    "answer": (
        *("answer", "answers", "label", "gold", "solution", "ground_truth", "target", "gt", "gt_answer"),
        *("correct_answer", "output"),
    ),
    "answer_index": ("answer_index", "answer_idx", "correct_choice_idx", "correct_idx", "correct_index", "gold_index"),
    "options": ("options", "choices", "candidates", "option"),
    "id": ("id", "question_id", "uid", "index"),
}
"""What a column is -> usual names of it, any case."""
_NO_ANSWER = re.compile(
    r"(?:id|idx|index|number|split|source|width|height|url|hash|path|type)$|^(?:response|system|task)$"
)
_LETTER = re.compile(r"(?:(?:option|choice|opt)[ _]?)?[a-j]")


@dataclass(frozen=True)
class Guess:
    """A format that reads a file."""

    config: DataConfig
    tasks: Counter[str]
    """Samples by task among the rows looked at."""
    samples: list[Sample]
    problem: str | None = None
    """The first row that could not be read."""
    unread: tuple[str, ...] = ()
    """Source `table`: columns of the first row that are not read."""

    def __str__(self) -> str:
        columns = f", columns {self.config.columns}" if self.config.columns else ""
        return f"format {self.config.source}{columns}" + (
            f", not read: {', '.join(self.unread)}" if self.unread else ""
        )


def guess(path: Path) -> Guess:
    """The format that reads most of the first rows of a file or folder.

    Raises ValueError when none reads any row, with what each of them said of the first.
    """
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder")
    first = {} if path.is_dir() else next(_rows(path), {})
    columns = _columns(first)
    pictured = any(map(is_picture, first.values()))
    tried: defaultdict[str, list[str]] = defaultdict(list)  # what was said -> the formats that said so
    best: Guess | None = None
    for name, keys in _candidates(path, columns, first):
        try:
            entry = DataConfig(source=name, path=path, **keys)
            found = list(islice(items(entry), LOOKED_AT))
        except (ValueError, OSError, ValidationError) as error:
            tried[_brief(error)].append(name)
            continue
        found = [(place, _known(item)) for place, item in found]
        good = [item for _, item in found if isinstance(item, Sample)]
        if good and pictured and not any(sample.images for sample in good):
            tried["leaves the images out"].append(name)
            continue
        bad = [f"{place}: {item}" for place, item in found if not isinstance(item, Sample)]
        if good and (best is None or len(good) > len(best.samples)):
            best = Guess(entry, Counter(one.task for one in good), good, bad[0] if bad else None, _unread(entry, first))
        if good and not bad:
            break
        tried[_brief(bad[0]) if bad else "no rows"].append(name)
    if best is None:
        raise ValueError(
            f"{path}: no format reads its rows; name its columns in the recipe (docs/data.md, source table)\n  "
            + "\n  ".join(f"{', '.join(dict.fromkeys(names))}: {said}" for said, names in tried.items())
        )
    return best


def _unread(entry: DataConfig, first: dict[str, Any]) -> tuple[str, ...]:
    names = [one for value in entry.columns.values() for one in ([value] if isinstance(value, str) else value)]
    used = (
        {*names, *FIELDS, "images", "decoded_image", "choices", *ascii_uppercase} if entry.source == "table" else first
    )
    return tuple(name for name, value in first.items() if name not in used and value and not is_picture(value))


def _known(item: Sample | ValueError) -> Sample | ValueError:
    return ValueError(f"unknown task {item.task!r}") if isinstance(item, Sample) and item.task not in TASKS else item


def _candidates(
    path: Path, columns: dict[str, str | list[str]], first: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Formats to try, with the keys of their entries."""
    if path.suffix in (".csv", ".tsv"):
        formats = ("table",)
    else:
        formats = FOLDERS if path.is_dir() else ("coco", *FORMATS) if path.suffix == ".json" else FORMATS
    if METHOD in first or ("conversations" in first and first.keys() & {"task", "answer"}):
        formats = ("vlm_r1", *(name for name in formats if name not in ("vlm_r1", "llava")))  # which reads replies only
    for name in formats:
        yield name, {"columns": columns} if name == "table" and columns else {}
        if name == "table" and _counts_from_0(path, str(columns.get("answer", "answer"))):
            others = {what: column for what, column in columns.items() if what != "answer"}
            yield name, {"columns": {**others, "answer_index": str(columns.get("answer", "answer"))}}
        if path.is_dir() and name in ("voc", "yolo"):
            yield name, {"split": "train"}


def _columns(first: dict[str, Any]) -> dict[str, str | list[str]]:
    """Columns of a file of rows whose names differ from ours: by their usual names, then by what is in them."""
    names = {str(name).strip().lower().replace(" ", "_"): str(name) for name in first}
    taken: dict[str, str] = {}
    for what, usual in NAMES.items():
        name = next((names[one] for one in usual if one in names and names[one] not in taken.values()), None)
        if name is not None:
            taken[what] = name
    letters = sorted(name for name in names.values() if _LETTER.fullmatch(name.lower()))
    _by_content({name: value for name, value in first.items() if name not in letters}, taken)
    found: dict[str, str | list[str]] = {what: name for what, name in taken.items() if name not in (what, f"{what}s")}
    if "options" not in taken and len(letters) > 1:
        found["options"] = letters
    if taken.get("question") == names.get("instruction") and "input" in names:
        found["question"] = [names["instruction"], names["input"]]
    if "task" in first and first["task"] not in TASKS:
        found["task"] = []
    return found


def _counts_from_0(path: Path, name: str) -> bool:
    """Whether a column has numbers only, 0 among them, as the places of the right options."""
    values = [str(row.get(name)) for row in islice(_rows(path), LOOKED_AT)]
    return "0" in values and all(re.fullmatch(r"\d", value) for value in values)


def _by_content(first: dict[str, Any], taken: dict[str, str]) -> None:
    """Adds to `taken` the columns whose names say nothing: the one name of an image file, the one text of several
    words as the question, and then the one column that is left as the answer, unless its name says that it is none."""
    signs: dict[str, Callable[[Any], bool]] = {
        "image": lambda value: is_picture(value) or str(value).lower().endswith(SUFFIXES),
        "question": lambda value: len(str(value).split()) > 2,
        "answer": lambda value: bool(str(value)),
    }
    first = {name: _as_text(value) for name, value in first.items()}
    for what, sign in signs.items():
        left = [name for name, value in first.items() if name not in taken.values() and sign(value)]
        if what == "answer":
            left = [name for name in left if not _NO_ANSWER.search(name.lower())]
        if what not in taken and len(left) == 1:
            taken[what] = left[0]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        for _, row in table_rows(Reading(path, path.parent)):
            if isinstance(row, dict):
                yield row
    except (ValueError, OSError):
        return


def _brief(error: object) -> str:
    return " ".join(str(error).split())[:160]


def _as_text(value: Any) -> Any:
    """A cell of bytes as the text that it is; nothing for others that are no image."""
    if not isinstance(value, bytes) or is_picture(value):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return ""
