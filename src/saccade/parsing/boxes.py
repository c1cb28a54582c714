"""Reading boxes out of a reply, in whatever of the known notations it writes them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from saccade.types import Box

BOX_KEYS = ("bbox_2d", "bbox", "box")
NOWHERE: Box = (0.0, 0.0, 0.0, 0.0)
"""Stands for a box that was given but cannot be read: it counts as an answer and overlaps nothing."""

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_FOUR = r"\s*,\s*".join([f"({_NUMBER})"] * 4)
_LIST = re.compile(rf"\[\s*{_FOUR}\s*\]")
_PAIR = rf"\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)"
_TOKENS = re.compile(rf"<\|box_start\|>\s*{_PAIR}\s*,\s*{_PAIR}\s*<\|box_end\|>")
_OBJECT = re.compile(r"\{[^{}]*\}")
_LABEL = re.compile(r'["\']label["\']\s*:\s*(?:"([^"]*)"|\'([^\']*)\')')
_KEYED = re.compile("[\"'](?:" + "|".join(BOX_KEYS) + ")[\"']\\s*:")
_FENCE = re.compile(r"```[a-zA-Z]*\s*\n?")
_NOTHING = re.compile(r"(?:\[\s*\]|none|null)\.?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LabelledBox:
    """A box as written, in the frame of the reply or of the gold; an empty label when none was given."""

    box: Box
    label: str = ""


def read_boxes(text: str) -> list[LabelledBox]:
    """All boxes of a text, in order; [] when there are none.

    Reads JSON, fenced or bare, broken or whole: objects with `bbox_2d`, `bbox` or `box` and perhaps `label`, lists of
    four numbers, lists of either; and `<|box_start|>(x1,y1),(x2,y2)<|box_end|>`. Numbers are taken as written: not
    converted, not clipped, not put in order. An object whose box cannot be read yields `NOWHERE`. Takes any string;
    linear in its length.
    """
    text = _inside_fence(text)
    value = _json(text)
    if value is not None:
        return list(_walk(value))
    return [_token_box(m) for m in _TOKENS.finditer(text)] or _scan(text)


def read_detections(text: str) -> list[LabelledBox] | None:
    """As `read_boxes`, but None for a text that neither holds a box nor says outright that there is none.

    `[]`, `None` and `null` say so, alone or in a fence; prose does not.
    """
    boxes = read_boxes(text)
    if boxes or _NOTHING.fullmatch(_inside_fence(text).strip()):
        return boxes
    return None


def _inside_fence(text: str) -> str:
    """The inside of the last complete ``` fence, or the text itself."""
    marks = list(_FENCE.finditer(text))
    return text[marks[-2].end() : marks[-1].start()] if len(marks) >= 2 else text


def _json(text: str) -> Any:
    """The JSON value between the first and the last bracket, or None. Numbers become floats, NaN and all."""
    starts = [i for i in (text.find("["), text.find("{")) if i >= 0]
    end = max(text.rfind("]"), text.rfind("}"))
    if not starts or end < min(starts):
        return None
    try:
        return json.loads(text[min(starts) : end + 1], parse_int=float)
    except (ValueError, RecursionError):
        return None


def _walk(value: Any, depth: int = 0) -> Iterator[LabelledBox]:
    """Boxes in a JSON value: objects with a box key, lists of four numbers, lists of these."""
    if depth > 8:
        return
    if isinstance(value, dict):
        key = next((k for k in BOX_KEYS if k in value), None)
        if key is not None:
            label = value.get("label", "")
            yield LabelledBox(_box(value[key]), label if isinstance(label, str) else "")
        else:
            for inner in value.values():
                yield from _walk(inner, depth + 1)
    elif isinstance(value, list):
        if len(value) == 4 and all(isinstance(v, float) for v in value):
            yield LabelledBox(_box(value))
        else:
            for inner in value:
                yield from _walk(inner, depth + 1)


def _scan(text: str) -> list[LabelledBox]:
    """Boxes of a text that is no JSON, such as a list cut short or one with a stray comma."""
    found: list[LabelledBox] = []
    end = 0
    for item in _OBJECT.finditer(text):
        found += [LabelledBox(_box(m.groups())) for m in _LIST.finditer(text, end, item.start())]
        end = item.end()
        lists = [_box(m.groups()) for m in _LIST.finditer(item[0])]
        if not lists and _KEYED.search(item[0]):
            lists = [NOWHERE]
        label = _LABEL.search(item[0])
        found += [LabelledBox(box, next(filter(None, label.groups()), "") if label else "") for box in lists]
    return found + [LabelledBox(_box(m.groups())) for m in _LIST.finditer(text, end)]


def _token_box(match: re.Match[str]) -> LabelledBox:
    return LabelledBox(_box(match.groups()))


def _box(value: Any) -> Box:
    """Four finite numbers as a box, else `NOWHERE`."""
    if not isinstance(value, list | tuple):
        return NOWHERE
    if len(value) == 1 and isinstance(value[0], list):  # [[x1, y1, x2, y2]], as some families write
        value = value[0]
    if len(value) != 4 or not all(isinstance(v, float | str) for v in value):
        return NOWHERE
    try:
        x1, y1, x2, y2 = map(float, value)
    except ValueError:
        return NOWHERE
    return (x1, y1, x2, y2) if all(map(math.isfinite, (x1, y1, x2, y2))) else NOWHERE
