"""Formats of data sets: the functions that read them. A new format is one function and its line in `READERS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saccade.data.records import Item, Reading

READERS: dict[str, str] = {
    "vlm_r1": "dialogues:vlm_r1",
    "llava": "dialogues:llava",
    "easy_r1": "readers:easy_r1",
    "math_vision": "readers:math_vision",
    "geometry3k": "readers:geometry3k",
    "refcoco": "boxes:refcoco",
    "coco": "boxes:coco",
    "voc": "annotations:voc",
    "yolo": "annotations:yolo",
    "table": "tables:table",
    "trl": "trainers:trl",
    "verl": "trainers:verl",
    "ms_swift": "trainers:ms_swift",
    "gui_r1": "trainers:gui_r1",
    "saccade": "storage:stored",
}
"""Format -> module:function in this package, imported by `reader`: a recipe needs the names only."""
BOXES = ("coco", "voc", "yolo")
"""Formats of images with labeled boxes."""
TABLES = tuple(name for name in READERS if name not in ("geometry3k", *BOXES))
"""Formats whose rows may be in any file of `files.table_rows` or on the hub."""


def reader(name: str) -> Callable[[Reading], Iterator[Item]]:
    """The function that reads the format `name` of `READERS`."""
    module, _, function = READERS[name].partition(":")
    return getattr(import_module(f"saccade.data.{module}"), function)
