"""Readers of what a model wrote. Total: any string gives a value or None, in time linear in its length.

`read_x` gives the value or None; `parse_x` gives a `Reading` with the rule that read it or the reason why not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade.lazy import first_use

if TYPE_CHECKING:
    from saccade.parsing.boxes import NOWHERE, LabelledBox, parse_detections, read_boxes, read_detections, read_entries
    from saccade.parsing.choices import LETTERS, parse_choice, parse_choices, read_choice
    from saccade.parsing.markup import fold, normalized, plain
    from saccade.parsing.numbers import Quantity, parse_number, parse_quantity, read_number, read_quantity
    from saccade.parsing.points import Point, read_points
    from saccade.parsing.reading import Reading
    from saccade.parsing.reply import (
        Reply,
        parse_boxed,
        parse_final,
        read_all_boxed,
        read_boxed,
        read_final,
        read_reply,
    )
    from saccade.parsing.units import UNITS, Unit, read_unit
    from saccade.parsing.yes_no import parse_yes_no, read_yes_no

__all__ = [
    "LETTERS",
    "NOWHERE",
    "UNITS",
    "LabelledBox",
    "Point",
    "Quantity",
    "Reading",
    "Reply",
    "Unit",
    "fold",
    "normalized",
    "parse_boxed",
    "parse_choice",
    "parse_choices",
    "parse_detections",
    "parse_final",
    "parse_number",
    "parse_quantity",
    "parse_yes_no",
    "plain",
    "read_all_boxed",
    "read_boxed",
    "read_boxes",
    "read_choice",
    "read_detections",
    "read_entries",
    "read_final",
    "read_number",
    "read_points",
    "read_quantity",
    "read_reply",
    "read_unit",
    "read_yes_no",
]

_PLACES = {
    "NOWHERE": "boxes",
    "LabelledBox": "boxes",
    "parse_detections": "boxes",
    "read_boxes": "boxes",
    "read_detections": "boxes",
    "read_entries": "boxes",
    "LETTERS": "choices",
    "parse_choice": "choices",
    "parse_choices": "choices",
    "read_choice": "choices",
    "fold": "markup",
    "normalized": "markup",
    "plain": "markup",
    "Quantity": "numbers",
    "parse_number": "numbers",
    "parse_quantity": "numbers",
    "read_number": "numbers",
    "read_quantity": "numbers",
    "Point": "points",
    "read_points": "points",
    "Reading": "reading",
    "Reply": "reply",
    "parse_boxed": "reply",
    "parse_final": "reply",
    "read_all_boxed": "reply",
    "read_boxed": "reply",
    "read_final": "reply",
    "read_reply": "reply",
    "UNITS": "units",
    "Unit": "units",
    "read_unit": "units",
    "parse_yes_no": "yes_no",
    "read_yes_no": "yes_no",
}

__getattr__ = first_use(__name__, _PLACES)
