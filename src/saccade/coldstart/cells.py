"""Cells of a row store's file, which may be damaged or written by others, as texts and values."""

from __future__ import annotations

import json
from typing import Any

from saccade.data.records import BROKEN


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
