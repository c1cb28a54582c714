"""Reading boxes out of a reply, in whatever of the known notations it writes them."""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from saccade.parsing.reading import Reading, found
from saccade.types import Box

BOX_KEYS = ("bbox_2d", "bbox", "box")
NOWHERE: Box = (0.0, 0.0, 0.0, 0.0)
"""Stands for a box that was given but cannot be read: it counts as an answer and overlaps nothing."""

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_FOUR = r"\s*,\s*".join([f"({_NUMBER})"] * 4)
_LIST = re.compile(rf"\[\s*{_FOUR}\s*\]")
_PAIR = rf"\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)"
_TOKENS = re.compile(
    r"(?:<\|object_ref_start\|>(?P<ref>[^<]{0,200})<\|object_ref_end\|>\s{0,9}"
    r"|<ref>(?P<old_ref>[^<]{0,200})</ref>\s{0,9})?"
    rf"(?:(?:<\|box_start\|>|<box>)\s{{0,9}}{_PAIR}\s{{0,9}},\s{{0,9}}{_PAIR}\s{{0,9}}(?:<\|box_end\|>|</box>)"
    rf"|<box>\s{{0,9}}\[?\s{{0,9}}{_LIST.pattern})"
)
_BINS = re.compile(r"<loc(\d{4})><loc(\d{4})><loc(\d{4})><loc(\d{4})>([^<;]{0,200})")
_OBJECT = re.compile(r"\{[^{}]*\}")
_LABEL = re.compile(r'["\']label["\']\s*:\s*(?:"([^"]*)"|\'([^\']*)\')')
_KEYED = re.compile("[\"'](?:" + "|".join(BOX_KEYS) + ")[\"']\\s*:")
_FENCE = re.compile(r"```[a-zA-Z]*\s*\n?")
_NOTHING = re.compile(r"(?:\[\s*\]|none|null)\.?", re.IGNORECASE)
_DECODER = json.JSONDecoder(parse_int=float)
MAX_STARTS = 8
"""Brackets at which a JSON value inside prose is tried, so that a text of brackets stays cheap."""


@dataclass(frozen=True, slots=True)
class LabelledBox:
    """A box as written, in the frame of the reply or of the gold; an empty label when none was given."""

    box: Box
    label: str = ""


def read_boxes(text: str) -> list[LabelledBox]:
    """All boxes of a text, in order; [] when there are none.

    Reads JSON, fenced or bare, broken or whole: objects with `bbox_2d`, `bbox` or `box` and perhaps `label`, lists of
    four numbers, lists of either; `<|box_start|>(x1,y1),(x2,y2)<|box_end|>` and `<box>[[..]]</box>` with the label in
    `<|object_ref_start|>` or `<ref>`; and `<locYYYY><locXXXX>..label`, which is put into x, y order. Numbers are taken
    as written: not converted, not clipped, not put in order. An object whose box cannot be read yields `NOWHERE`. Takes
    any string; linear in its length.
    """
    text = _inside_fence(text)
    value = _json(text)
    if value is not None:
        return list(_walk(value))
    if "box" in text and (tokens := [_token_box(m) for m in _TOKENS.finditer(text)]):
        return tokens
    if "<loc" in text and (bins := [_bin_box(m) for m in _BINS.finditer(text)]):
        return bins
    return _among_prose(text) or _scan(text)


def read_detections(text: str) -> list[LabelledBox] | None:
    """As `read_boxes`, but None for a text that neither holds a box nor says outright that there is none.

    `[]`, `None` and `null` say so, alone or in a fence; prose does not.
    """
    return parse_detections(text).value


def parse_detections(text: str) -> Reading[list[LabelledBox]]:
    """As `read_detections`, with the rule or the reason."""
    boxes = read_boxes(text)
    if boxes:
        return found(boxes, "boxes")
    if _NOTHING.fullmatch(_inside_fence(text).strip()):
        return found([], "said to be none")
    return Reading(None, reason="nothing" if not text.strip() else "no box")


def _inside_fence(text: str) -> str:
    """The inside of the last complete ``` fence, or the text itself."""
    if "```" not in text:
        return text
    last: deque[tuple[int, int]] = deque(maxlen=3)
    count = 0
    for mark in _FENCE.finditer(text):
        last.append(mark.span())
        count += 1
    if count % 2:  # the fence that was opened last never closes: no pair
        last.pop()
    return text[last[-2][1] : last[-1][0]] if len(last) >= 2 else text


def _json(text: str) -> Any:
    """The JSON value between the first and the last bracket, or None. Numbers become floats, NaN and all."""
    starts = [i for i in (text.find("["), text.find("{")) if i >= 0]
    end = max(text.rfind("]"), text.rfind("}"))
    if not starts or end < min(starts):
        return None
    try:
        return _DECODER.decode(text[min(starts) : end + 1])
    except (ValueError, RecursionError):
        return None


def _among_prose(text: str) -> list[LabelledBox]:
    """Boxes of the JSON values that stand in prose, when each of at most `MAX_STARTS` is whole; else []."""
    boxes: list[LabelledBox] = []
    position = 0
    for _ in range(MAX_STARTS):
        start = min((i for i in (text.find("[", position), text.find("{", position)) if i >= 0), default=-1)
        if start < 0:
            return boxes
        try:
            value, position = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            return []  # broken JSON: the scan keeps its whole items
        boxes += _walk(value)
    return []


def _walk(value: Any, depth: int = 0) -> Iterator[LabelledBox]:
    """Boxes in a JSON value: objects with a box key, lists of four numbers, lists of these."""
    if depth > 8:
        return
    if isinstance(value, dict):
        key = next((k for k in BOX_KEYS if k in value), None)
        if key is not None:
            label = value.get("label", "")
            label = label if isinstance(label, str) else ""
            for box in _boxes_under_key(value[key]):
                yield LabelledBox(box, label)
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


def _boxes_under_key(value: Any) -> list[Box]:
    """One box, or several in a list of lists, which all have the label of their object."""
    if isinstance(value, list) and len(value) > 1 and all(isinstance(inner, list) for inner in value):
        return [_box(inner) for inner in value]
    return [_box(value)]


def _token_box(match: re.Match[str]) -> LabelledBox:
    numbers = [group for group in match.groups()[2:] if group is not None]
    return LabelledBox(_box(numbers), (match["ref"] or match["old_ref"] or "").strip())


def _bin_box(match: re.Match[str]) -> LabelledBox:
    y1, x1, y2, x2, label = match.groups()
    return LabelledBox(_box((x1, y1, x2, y2)), label.strip())


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
