"""The result of one evaluated item, and its file: `items.jsonl`, a row per item, appended as answers arrive."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from saccade.config import said
from saccade.disk import refuse_irregular
from saccade.types import Box

Key = tuple[str, str | None, str, str, str, str]
"""model, control, decoding, split, task, sample id."""


@dataclass(frozen=True, slots=True)
class ItemResult:
    """One item with its K attempts; K tuples are in order of attempts."""

    model: str
    control: str | None
    """Name of the control that this run is ('forced habit', 'more SFT'), None for a headline run."""
    decoding: str
    sample_id: str
    task: str
    split: str
    verdicts: tuple[bool | None, ...]
    """None where the gold answer itself cannot be graded; such an item is not counted."""
    routes: tuple[str, ...]
    """How each answer was read and judged (the grader's name for its route)."""
    answers: tuple[str | None, ...]
    """The answer extracted for each verdict; None without one. Majority votes use these."""
    tokens: tuple[int, ...]
    """Length of each reply in tokens, a forced beginning included."""
    truncated: tuple[bool, ...]
    habits: tuple[str, ...]
    listings: tuple[int, ...]
    text: str
    """The first attempt, whole."""
    question: str
    gold: Any
    options: tuple[str, ...] = ()
    """Of a choice question, in the order of their letters."""
    boxes: tuple[Box, ...] = ()
    """Boxes of the first attempt in pixels of the original image, for questions about boxes."""
    gold_boxes: tuple[Box, ...] = ()
    box_image: int = 0
    """Index of the image that the boxes belong to."""
    image_shas: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    """Its slices and group, the prompt's id, every attempt with text, route and judge (see `graded_items`)."""

    @property
    def key(self) -> Key:
        return (self.model, self.control, self.decoding, self.split, self.task, self.sample_id)

    @property
    def gradable(self) -> bool:
        return bool(self.verdicts) and None not in self.verdicts

    @property
    def accuracy(self) -> float:
        """Share of right attempts."""
        return sum(v is True for v in self.verdicts) / len(self.verdicts)


class _Attempt(TypedDict):
    text: str
    finish_reason: str
    tries: int
    first_right: bool | None
    value: float | None
    extracted: str | None
    needs_judge: bool
    judged: list[str]


class _Truth(TypedDict):
    bbox_2d: Box
    label: str


class _Details(TypedDict):
    """What results read of the details."""

    slices: dict[str, Any]
    group: str
    frames: list[tuple[str, tuple[int, int], tuple[int, int]]]
    crowds: list[_Truth]
    boxes: list[tuple[Box, str]]
    attempts: list[_Attempt]


class _Detailed(TypedDict):
    details: _Details


_NAMES = {one.name for one in fields(ItemResult)}
_PER_ATTEMPT = ("verdicts", "routes", "answers", "tokens", "truncated", "habits", "listings")
_ITEM, _DETAILED = TypeAdapter(ItemResult), TypeAdapter(_Detailed)


def read_items(path: str | Path) -> list[ItemResult]:
    """All complete rows of the file; a truncated last line is skipped. A missing file has no rows."""
    path = Path(path)
    if not path.exists():
        return []
    refuse_irregular(path)
    whole = path.read_bytes().split(b"\n")[:-1]
    return [_item(line, f"{path}:{number}") for number, line in enumerate(whole, 1)]


def _item(line: bytes, place: str) -> ItemResult:
    try:
        keys = set(row) if isinstance(row := json.loads(line), dict) else _NAMES
    except (ValueError, RecursionError) as error:
        raise _no_row(place, str(error)) from None
    if odd := sorted(keys ^ _NAMES):
        raise ValueError(
            f"{place}: keys {odd} are missing or unknown; the file was written by another version; choose a new `out`"
        )
    try:
        item, details = _ITEM.validate_json(line, strict=True), _DETAILED.validate_json(line, strict=True)["details"]
    except ValidationError as error:
        raise _no_row(place, said(error).splitlines()[0]) from None
    if len({len(details["attempts"]), *(len(getattr(item, name)) for name in _PER_ATTEMPT)}) > 1:
        raise _no_row(place, f"got different numbers of {', '.join(_PER_ATTEMPT)} and details.attempts")
    if not 0 <= item.box_image < max(1, len(details["frames"])):
        raise _no_row(place, f"box_image: got {item.box_image}, expected the index of one of details.frames")
    return item


def _no_row(place: str, why: str) -> ValueError:
    return ValueError(
        f"{place}: no row of an evaluation ({why[:300]}); delete this line, and its question is asked again"
    )


def append_items(path: str | Path, items: Iterable[ItemResult]) -> None:
    """Append rows and flush them to disk; first drops a truncated last line."""
    path = Path(path)
    if path.is_symlink():
        raise ValueError(f"{path}: is a link, which is not written through; put the file itself there")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (rows := "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items)):
        return
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if size and file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.seek(0, os.SEEK_END)
        file.write(rows.encode(errors="replace"))  # a reply, or a judge's, may have half of a surrogate pair
        file.flush()
        os.fsync(file.fileno())
