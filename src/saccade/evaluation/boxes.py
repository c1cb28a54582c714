"""Boxes of answers and of replies, all in pixels of the original image."""

from __future__ import annotations

import math
from typing import Any

from saccade.geometry import to_original
from saccade.parsing import read_boxes, read_reply
from saccade.types import Box, Frame


def gold_boxes(answer: Any) -> tuple[Box, ...]:
    """Boxes in a gold answer that is a box or a list of {'bbox_2d', 'label'}; () for any other answer."""
    if not isinstance(answer, (list, tuple)) or not answer:
        return ()
    if len(answer) == 4 and all(isinstance(v, (int, float)) for v in answer):
        return (_box(answer),)
    if all(isinstance(entry, dict) and "bbox_2d" in entry for entry in answer):
        return tuple(_box(entry["bbox_2d"]) for entry in answer)
    return ()


def reply_boxes(text: str, frame: Frame) -> tuple[Box, ...]:
    """Boxes in the answer of a reply that speaks in `frame`; boxes that are no finite numbers are left out."""
    answer = read_reply(text).answer or ""
    found = [entry.box for entry in read_boxes(answer)]
    return tuple(to_original(box, frame) for box in found if all(math.isfinite(v) for v in box))


def _box(values: Any) -> Box:
    x1, y1, x2, y2 = (float(v) for v in values)
    return (x1, y1, x2, y2)
