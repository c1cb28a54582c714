"""The source `table`: rows of any file under the user's own column names."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from saccade.data import records
from saccade.data.dialogues import final_answer
from saccade.data.files import table_rows
from saccade.data.golds import pose
from saccade.data.images import SUFFIXES
from saccade.data.questions import listed_options, name_pictures
from saccade.data.records import Item, Placed, Reading, Row
from saccade.types import Sample

Columns = dict[str, str | list[str]]
"""What a column is -> its name in the file, or several names."""
FIELDS = ("id", "image", "question", "answer", "options", "task", "system", "response")
"""What columns can be. A column of that name (also `images`) is found without being listed."""
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""The file that describes the images of a Hugging Face image folder."""
LONGEST_LITERAL = 1 << 16
"""Characters of a cell that may hold a list."""


def check_columns(columns: Columns) -> None:
    """ValueError for names that no column can have."""
    for name in columns:
        if name not in FIELDS:
            near = get_close_matches(name, FIELDS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"expected {', '.join(FIELDS)}"
            raise ValueError(f"columns: unknown key '{name}'; {hint}")


def table(reading: Reading) -> Iterator[Item]:
    """Rows of CSV, TSV, JSONL, JSON, Parquet, and of Hugging Face folders and data sets, under the names of `columns`.

    {source: table, path: train.csv, columns: {image: file, question: prompt, answer: label, options: choices}}

    `image` may be absent or empty (a text-only row), a name, bytes, a data URI, base64, or a list of these; `options` a
    list, the text of one, a mapping of letters to texts, a text with separators, or the names of several columns. The
    gold may be in any form of `golds.pose`. `response` is the reply that SFT learns; without an answer column the gold
    is its final answer. An image folder has its images in the column `image` and, if subfolders are classes, their
    names in `label`.
    """
    columns = {key: [names] if isinstance(names, str) else names for key, names in reading.columns.items()}

    def read(row: Row, place: str) -> Sample:
        images = records.images_of(value, reading) if (value := _image(row, columns)) else ()
        question, _ = name_pictures(_text(row, columns, "question", required=True), [], len(images))
        records.refuse_unsupported(row, question)
        question = records.with_markers(question, len(images))
        response = _text(row, columns, "response")
        answer = _value(row, columns, "answer", required=not response)
        answer = final_answer(response) if answer is None else answer
        answer = records.text_of(answer, "the answer") if isinstance(answer, bytes) else answer
        task = _text(row, columns, "task") or reading.task
        meta: dict[str, Any] = {"place": place}
        meta |= {key: text for key in ("system", "response") if (text := _text(row, columns, key))}
        name = _text(row, columns, "id") or place
        return pose(name, images, question, _gold(answer), task, meta, _options(row, columns))

    return records.each(folder_rows(reading), read)


def _value(row: Row, columns: dict[str, list[str]], key: str, required: bool = False) -> Any:
    """The cell of a column; None when it is empty or absent and not required."""
    names = columns.get(key, [key])
    if len(names) != 1:
        raise ValueError(f"columns.{key} names {len(names)} columns, expected one")
    value = row.get(names[0])
    if isinstance(value, str) and not value.strip():
        value = None
    if value is None and (required or (key in columns and names[0] not in row and key not in ("image", "options"))):
        if names[0] in row or key in columns:
            raise ValueError(f"column '{names[0]}' is missing or empty; the row has {', '.join(row) or 'nothing'}")
        raise ValueError(
            f"there is no column '{key}'; the row has {', '.join(row) or 'nothing'}. Name it under 'columns', such as "
            f"columns: {{{key}: {next(iter(row), 'name')}}}"
        )
    return value


def _text(row: Row, columns: dict[str, list[str]], key: str, required: bool = False) -> str:
    """The cell of a column as a text; '' when it is empty or absent and not required."""
    value = _value(row, columns, key, required)
    return "" if value is None else records.text_of(value, f"column '{columns.get(key, [key])[0]}'")


def _image(row: Row, columns: dict[str, list[str]]) -> Any:
    names = columns.get("image", ["image" if row.get("image") is not None else "images"])
    if missing := [name for name in names if "image" in columns and name not in row and len(names) == 1]:
        known = ", ".join(row) or "nothing"
        raise ValueError(
            f"column '{missing[0]}' is missing or empty; the row has {known} (a text-only row has an empty list)"
        )
    values = [_listed(row[name]) for name in names if row.get(name) not in (None, "")]
    return [one for value in values for one in (value if isinstance(value, list | tuple) else [value])]


def _options(row: Row, columns: dict[str, list[str]]) -> list[Any]:
    """The options of a row; [] when it has none."""
    names = columns.get("options", ["options"])
    if len(names) > 1:
        return [row.get(name) for name in names]
    cell = row.get(names[0])
    value = [] if cell in (None, "") else _listed(cell)
    if isinstance(value, dict):
        texts = (
            value.get("text")
            if isinstance(value.get("text"), list)
            else [value[key] for key in sorted(value, key=_place)]
        )
        return list(texts or [])
    if isinstance(value, str):
        return listed_options(value) or _split(value)
    if not isinstance(value, list | tuple):
        raise ValueError(f"options are {records.shown(value)}, expected a list of texts")
    return list(value)


def _place(key: Any) -> tuple[int, str]:
    """Sorts letters, and numbers by their value."""
    return (int(key), "") if str(key).isdecimal() and len(str(key)) < 9 else (0, str(key))


def _split(text: str) -> list[str]:
    for separator in ("\n", "|", ";"):
        parts = [part.strip() for part in text.split(separator)]
        if len(parts) > 1 and all(parts):
            return parts
    raise ValueError(f"options are {records.shown(text)}, expected a list of texts, or texts separated by '|'")


def _listed(cell: Any) -> Any:
    """A cell that is the text of a list or mapping (JSON or Python) as such; all other cells unchanged."""
    if not isinstance(cell, str) or cell.strip()[:1] not in ("[", "{") or len(cell) > LONGEST_LITERAL:
        return cell
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return cell


def _gold(answer: Any) -> Any:
    """A gold that is a list of letters or texts as such; boxes stay text, which `pose` reads."""
    value = _listed(answer)
    return value if isinstance(value, list) and value and all(isinstance(one, str) for one in value) else answer


# -------------------------------------------------------------------------------------------------------- image folders


def folder_rows(reading: Reading) -> Iterator[Placed]:
    """The rows of `files.table_rows`, and those of a Hugging Face image folder."""
    folder = reading.path
    if reading.hub or not folder.is_dir():
        return table_rows(reading)
    base = folder / reading.split if reading.split and (folder / reading.split).is_dir() else folder
    metadata = next((base / name for name in METADATA if (base / name).is_file()), None)
    if metadata is not None:
        return _described(metadata, folder)
    classes = sorted(one for one in base.iterdir() if one.is_dir())
    if any(_pictures(one) for one in classes) and not any(base.glob("*.json*")) and not any(base.glob("*.parquet")):
        return _classes(classes, folder)
    return table_rows(reading)


def _described(metadata: Path, folder: Path) -> Iterator[Placed]:
    """Rows of the metadata file, with `file_name` as the image, relative to the data set's folder."""
    prefix = metadata.parent.relative_to(folder)
    for place, row in table_rows(Reading(metadata, folder)):
        if isinstance(row, ValueError) or not isinstance(name := row.get("file_name"), str):
            yield place, row if isinstance(row, ValueError) else ValueError("column 'file_name' is missing or empty")
        else:
            yield place, {"image": str(prefix / name)} | row


def _classes(folders: list[Path], base: Path) -> Iterator[Placed]:
    """A row per image of each subfolder, whose name is the label."""
    for folder in folders:
        for file in _pictures(folder):
            name = str(file.relative_to(base))
            yield name, {"id": name, "image": name, "label": folder.name}


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
