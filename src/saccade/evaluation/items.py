"""The result of one evaluated item, and its file: `items.jsonl`, a row per item, appended as answers arrive."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

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
    """Of a benchmark: its slices and group, the prompt's id, every attempt with text, route and judge (see
    `benchmark_run`). Empty for other evaluations."""

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


_TUPLES = ("verdicts", "routes", "answers", "tokens", "truncated", "habits", "listings", "options", "image_shas")


def from_row(row: dict[str, Any], where: str) -> ItemResult:
    """An `items.jsonl` row as an item. Raises ValueError (with `where`) for a row with other keys."""
    names = {one.name for one in fields(ItemResult)}
    if set(row) | {"details"} != names:
        odd = sorted((set(row) | {"details"}) ^ names)
        raise ValueError(
            f"{where}: keys {odd} are missing or unknown; the file was written by another version; choose a new `out`"
        )
    boxes = {name: tuple(tuple(box) for box in row[name]) for name in ("boxes", "gold_boxes")}
    return ItemResult(**{**row, **{name: tuple(row[name]) for name in _TUPLES}, **boxes})


def read_items(path: str | Path) -> list[ItemResult]:
    """All complete rows of the file; a truncated last line is skipped. A missing file has no rows."""
    path = Path(path)
    if not path.exists():
        return []
    whole = path.read_bytes().split(b"\n")[:-1]
    return [_item(line, f"{path}:{number}") for number, line in enumerate(whole, 1)]


def _item(line: bytes, place: str) -> ItemResult:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        row = str(error)
    try:
        if isinstance(row, dict):
            return from_row(row, place)
        why = f"got {str(row)[:80]}"
    except TypeError as error:
        why = str(error)
    raise ValueError(f"{place}: no row of an evaluation ({why}); delete this line, and its question is asked again")


def append_items(path: str | Path, items: Iterable[ItemResult]) -> None:
    """Append rows and flush them to disk; first drops a truncated last line."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items)
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if size and file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.seek(0, os.SEEK_END)
        file.write(rows.encode())
        file.flush()
        os.fsync(file.fileno())
