"""The source `table`: rows of any file under the user's own column names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from saccade.data import records
from saccade.data.dialogues import final_answer
from saccade.data.files import row_files, table_rows
from saccade.data.golds import option_texts, parse_literal, pose
from saccade.data.images import SUFFIXES, is_picture
from saccade.data.questions import listed_options, place_pictures
from saccade.data.records import Item, Placed, Reading, Row
from saccade.faults import listed
from saccade.tasks import TASKS
from saccade.types import Sample

Columns = dict[str, str | list[str]]
"""What a column is -> its name in the file, or several names."""
FIELDS = ("id", "image", "question", "answer", "answer_index", "options", "task", "system", "response")
"""What columns can be. A column of that name (also `images`, `image_1` and so on, `choices`, the letters from `A`) is
found without being listed. `answer_index` is the place of the right option, from 0."""
_NUMBERED = re.compile(r"image_?(\d{1,2})")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""The file that describes the images of a Hugging Face image folder."""


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

    `question` may name several columns, whose texts become its lines. `image` may be absent or empty (a text-only row),
    a name, bytes, a data URI, base64, or a list of these; `options` a list, the text of one, a mapping of letters to
    texts, a text with separators, or the names of several columns. The gold may be in any form of `golds.pose`.
    `response` is the reply that SFT learns; without an answer column the gold is its final answer. An image folder has
    its images in the column `image` and, if subfolders are classes, their names in `label`.
    """
    columns = {key: [names] if isinstance(names, str) else names for key, names in reading.columns.items()}

    def read(row: Row, place: str) -> Sample:
        images = records.images_of(value, reading) if (value := _image(row, columns)) else ()
        question = _question(row, columns)
        records.refuse_unsupported(row, question)
        question, options = place_pictures(question, option_texts(_options(row, columns)), len(images))
        response = _text(row, columns, "response")
        index = _value(row, columns, "answer_index")
        answer = _value(row, columns, "answer", required=not response) if index is None else _at(index, options)
        answer = final_answer(response) if answer is None else answer
        answer = records.text_of(answer, "the answer") if isinstance(answer, bytes) else answer
        task = _text(row, columns, "task") or reading.task
        if task and task not in TASKS:
            raise ValueError(
                f"task is {records.shown(task)}, expected one of {', '.join(TASKS)}; "
                "columns: {task: []} if the column says something else"
            )
        meta: dict[str, Any] = {"place": place}
        meta |= {key: text for key in ("system", "response") if (text := _text(row, columns, key))}
        if "system" not in {**columns, **meta} and (system := records.system_of(row)):
            meta["system"] = system
        name = _text(row, columns, "id") or place
        return pose(name, images, question, _gold(answer), task, meta, options)

    return records.each(folder_rows(reading), read, pictured="image" not in columns)


def _value(row: Row, columns: dict[str, list[str]], key: str, required: bool = False) -> Any:
    """The cell of a column; None when it is empty or absent and not required."""
    names = columns.get(key, [key])
    if not names:
        return None
    if len(names) != 1:
        raise ValueError(f"columns.{key} names {len(names)} columns, expected one")
    value = row.get(names[0])
    if isinstance(value, str) and not value.strip():
        value = None
    if value is None and (required or (key in columns and names[0] not in row and key not in ("image", "options"))):
        if names[0] in row or key in columns:
            raise ValueError(f"column '{names[0]}' is missing or empty; the row has {listed(row)}")
        raise ValueError(
            f"there is no column '{key}'; the row has {listed(row)}. Name it under 'columns', such as "
            f"columns: {{{key}: {next(iter(row), 'name')}}}"
        )
    return value


def _text(row: Row, columns: dict[str, list[str]], key: str, required: bool = False) -> str:
    """The cell of a column as a text; '' when it is empty or absent and not required."""
    value = _value(row, columns, key, required)
    return "" if value is None else records.text_of(value, f"column '{columns.get(key, [key])[0]}'")


def _question(row: Row, columns: dict[str, list[str]]) -> str:
    """The text of the question's column, or of several. ValueError for earlier turns, which a table does not have."""
    names = columns.get("question", ["question"])
    parts = [_text(row, {"question": [name]}, "question") for name in names] if len(names) > 1 else []
    one = columns | {"question": names[-1:]} if parts else columns
    text = "\n".join(filter(None, parts)) or _text(row, one, "question", required=True)
    turns = parse_literal(text)
    if isinstance(turns, list) and any(isinstance(one, dict) and {"content", "value"} & one.keys() for one in turns):
        raise ValueError(f"column '{names[0]}' holds messages; use source trl, verl, ms_swift or llava")
    if isinstance(row.get("history"), list) and row["history"]:
        raise ValueError("field 'history' holds earlier turns, which are not read from a table; use source ms_swift")
    return text


def _at(index: Any, options: list[str]) -> str:
    """The letter and text of the option at a place, counted from 0."""
    if not options:
        raise ValueError(f"answer_index is {records.shown(index)}, and the row has no options")
    if isinstance(index, bool) or not re.fullmatch(r"\d{1,3}(\.0)?", str(index)) or int(float(index)) >= len(options):
        raise ValueError(f"answer_index is {records.shown(index)}, expected a number from 0 to {len(options) - 1}")
    return f"{ascii_uppercase[int(float(index))]}. {options[int(float(index))]}"


def _image(row: Row, columns: dict[str, list[str]]) -> Any:
    names = columns["image"] if "image" in columns else _image_columns(row)
    if missing := [name for name in names if "image" in columns and name not in row and len(names) == 1]:
        raise ValueError(
            f"column '{missing[0]}' is missing or empty; the row has {listed(row)} (a text-only row has an empty list)"
        )
    values = [parse_literal(row[name]) for name in names if row.get(name) not in (None, "")]
    return [one for value in values for one in (value if isinstance(value, list | tuple) else [value])]


def _image_columns(row: Row) -> list[str]:
    """The columns that hold the images of a row: `image`, `images`, or numbered ones. A file name in `image` may have
    its image in `decoded_image`, as in MathVista."""
    if isinstance(row.get("image"), str) and is_picture(row.get("decoded_image")):
        return ["decoded_image"]
    single = next((name for name in ("image", "images") if row.get(name) is not None), None)
    if single == "image" and isinstance(several := parse_literal(row.get("images")), list) and len(several) > 1:
        if row["image"] not in several:
            raise ValueError(
                "column 'image' holds one image and 'images' others; name those meant (columns: {image: images})"
            )
        return ["images"]
    numbered = sorted((int(found[1]), name) for name in row if (found := _NUMBERED.fullmatch(name)))
    return [single] if single else [name for _, name in numbered]


def _options(row: Row, columns: dict[str, list[str]]) -> list[Any]:
    """The options of a row; [] when it has none."""
    names = columns.get("options")
    if names is None:
        names = [name for name in ("options", "choices") if row.get(name)][:1] or _letters(row)
    if len(names) > 1:
        return [None if row.get(name) == "nan" else row.get(name) for name in names]
    cell = row.get(names[0]) if names else None
    value = [] if cell in (None, "") else parse_literal(cell)
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


def _letters(row: Row) -> list[str]:
    """The columns that have the letters from A as their names."""
    found = list(takewhile(row.__contains__, ascii_uppercase))
    return found if len(found) > 1 else []


def _place(key: Any) -> tuple[int, str]:
    """Sorts letters, and numbers by their value."""
    return (int(key), "") if str(key).isdecimal() and len(str(key)) < 9 else (0, str(key))


def _split(text: str) -> list[str]:
    for separator in ("\n", "|", ";"):
        parts = [part.strip() for part in text.split(separator)]
        if len(parts) > 1 and all(parts):
            return parts
    raise ValueError(f"options are {records.shown(text)}, expected a list of texts, or texts separated by '|'")


def _gold(answer: Any) -> Any:
    """A gold that is a list of letters or texts as such; boxes stay text, which `pose` reads."""
    value = parse_literal(answer)
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
    if any(map(_pictures, classes)) and not any(map(row_files, (base, *classes))):
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
