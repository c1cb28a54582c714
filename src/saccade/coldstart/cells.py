"""Cells of a row store's file, which may be damaged or written by others, as texts and values."""

from __future__ import annotations

import json
import math
from typing import Any

from saccade.coldstart.teachers import sample_of
from saccade.data.records import BROKEN, shown
from saccade.data.usable import refuse_unusable
from saccade.runs.drafts import Draft
from saccade.tasks import TASKS


def text_or_bytes(cell: bytes) -> str | bytes:
    """A cell of text, or its bytes where they are no UTF-8: that costs its row, not the query."""
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return cell


def storable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def decoded(cell: Any) -> str:
    """A cell as text. UnicodeDecodeError, or TypeError, where it is none."""
    return str(cell, "utf-8") if not isinstance(cell, str) else cell


def words_of(cell: Any) -> str:
    """Any cell as text for a person."""
    cell = cell.decode(errors="backslashreplace") if isinstance(cell, bytes) else cell
    return "unknown" if cell is None else str(cell)


def json_or_cell(cell: Any) -> Any:
    """The value, or the cell where it is no JSON."""
    try:
        return json.loads(decoded(cell))
    except BROKEN:
        return cell


def checked(draft: Draft) -> Draft:
    """ValueError for a draft that was not ingested like this."""
    texts = (*draft.images, *draft.image_shas)
    if len(draft.images) != len(draft.image_shas) or not all(isinstance(one, str) for one in texts):
        raise ValueError("images and image_shas are not as many texts")
    if draft.task not in TASKS:
        raise ValueError(f"task is {shown(draft.task)}, expected one of {', '.join(TASKS)}")
    refuse_unusable(sample_of(draft))
    return draft


def refuse_endless(draft: Draft) -> None:
    """ValueError or OverflowError for a step whose counts and costs are in no sum."""
    for one in draft.steps:
        if not all(map(math.isfinite, (one.tokens_in, one.tokens_out, one.cost, one.seconds))):
            raise ValueError("a count or cost is not finite")
