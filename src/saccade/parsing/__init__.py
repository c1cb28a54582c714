"""Readers of what a model wrote. Total: any string gives a value or None, in time linear in its length.

`read_x` gives the value or None; `parse_x` gives a `Reading` with the rule that read it or the reason why not.
"""

from __future__ import annotations

from saccade.parsing.boxes import NOWHERE, LabelledBox, parse_detections, read_boxes, read_detections, read_entries
from saccade.parsing.choices import LETTERS, parse_choice, parse_choices, read_choice
from saccade.parsing.markup import fold, plain
from saccade.parsing.numbers import Quantity, parse_number, parse_quantity, read_number, read_quantity
from saccade.parsing.reading import Reading
from saccade.parsing.reply import Reply, parse_boxed, parse_final, read_all_boxed, read_boxed, read_final, read_reply
from saccade.parsing.units import UNITS, Unit, read_unit
from saccade.parsing.yes_no import parse_yes_no, read_yes_no

__all__ = [
    "LETTERS",
    "NOWHERE",
    "UNITS",
    "LabelledBox",
    "Quantity",
    "Reading",
    "Reply",
    "Unit",
    "fold",
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
    "read_quantity",
    "read_reply",
    "read_unit",
    "read_yes_no",
]
