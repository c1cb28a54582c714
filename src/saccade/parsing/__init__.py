"""Readers of what a model wrote. Total: any string gives a value or None, in time linear in its length."""

from __future__ import annotations

from saccade.parsing.answers import LETTERS, plain, read_choice, read_number, read_yes_no
from saccade.parsing.boxes import NOWHERE, LabelledBox, read_boxes, read_detections
from saccade.parsing.reply import Reply, read_boxed, read_final, read_reply

__all__ = [
    "LETTERS",
    "NOWHERE",
    "LabelledBox",
    "Reply",
    "plain",
    "read_boxed",
    "read_boxes",
    "read_choice",
    "read_detections",
    "read_final",
    "read_number",
    "read_reply",
    "read_yes_no",
]
