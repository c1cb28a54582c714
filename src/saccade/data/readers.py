"""Readers of three sets of mathematics; those of other formats have their own modules (`formats.READERS`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saccade.data import records
from saccade.data.files import table_rows
from saccade.data.golds import gold_letters, option_texts, pose
from saccade.data.json_stream import decoded
from saccade.data.questions import place_pictures
from saccade.data.records import Item, Reading, Row
from saccade.data.texts import LARGEST_SETTINGS, text_in
from saccade.types import Sample


def math_vision(reading: Reading) -> Iterator[Item]:
    """Rows of MATH-Vision: `question` with `<image1>` markers, `options` (may be empty), `answer`, one `image`.

    If a question has several markers, its one image contains all pictures: the image comes first and the markers become
    '(picture k)'. A letter as gold answer without options is a choice question whose options are in the image.
    """

    def read(row: Row, place: str) -> Sample:
        picture = row.get("decoded_image") or records.field(row, "image", (str, bytes, dict))
        images = records.images_of(picture, reading)
        options = option_texts(records.field(row, "options", list))
        question, options = place_pictures(records.field(row, "question", str), options, len(images))
        answer = str(records.field(row, "answer", (str, int, float))).strip()
        if not answer:
            raise ValueError("field 'answer' is empty; expected a letter, a number or a formula")
        meta = {"place": place, "options": options, "level": row.get("level"), "subject": row.get("subject")}
        meta |= {"system": system} if (system := records.system_of(row)) else {}
        pictured = not options and re.fullmatch("[A-E]", answer) is not None
        task = reading.task or (None if options else "choice" if pictured else "free_form")
        return pose(str(row.get("id", place)), images, question, answer, task, meta, options)

    return records.each(table_rows(reading), read)


def easy_r1(reading: Reading) -> Iterator[Item]:
    """Rows of EasyR1's geometry3k, also used by Vision-R1's RL set: `images` or `image`, `problem`, `answer` (or
    `solution` in an answer tag), optionally `choices` with the letter in `ground_truth`.

    `answer` is the gold answer; with `task: choice` and `choices`, it is the letter.
    """

    def read(row: Row, place: str) -> Sample:
        problem = records.field(row, "problem", str)
        records.refuse_unsupported(row, problem)
        pictures = row.get("images") or row.get("image")
        images = () if pictures is None else records.images_of(pictures, reading)
        question, options = place_pictures(problem, option_texts(records.options_of(row)), len(images))
        raw_answer = records.field(row, "answer" if "answer" in row else "solution", (str, int, float, list, dict))
        answer = records.untagged(raw_answer)
        if options and row.get("ground_truth"):  # the letter; `answer` is then the text, which EasyR1 trains on
            options, answer = (options, row["ground_truth"]) if reading.task == "choice" else ([], answer)
        meta: dict[str, Any] = {"place": place} | {k: row[k] for k in ("data_source", "level") if row.get(k)}
        meta |= {"system": system} if (system := records.system_of(row)) else {}
        return pose(str(row.get("id", place)), images, question, answer, reading.task, meta, options)

    return records.each(table_rows(reading), read)


def geometry3k(reading: Reading) -> Iterator[Item]:
    """Geometry3K's original folders: `<number>/data.json` beside `img_diagram.png`; all are choice questions.

    With `task: free_form` the gold answer is the text of the right choice.
    """

    def read(row: Row, place: str) -> Sample:
        folder = str(Path(place).parent.name)
        images = records.image_paths(f"{folder}/img_diagram.png", reading)
        choices = option_texts(records.field(row, "compact_choices", list))
        letter, *more = gold_letters(records.field(row, "answer", str), choices)
        if more:
            raise ValueError(
                f"answer {records.shown(row['answer'])} names several options, expected one, as in Geometry3K"
            )
        task = reading.task or "choice"
        meta: dict[str, Any] = {"place": place, "letter": letter, "precise_value": row.get("precise_value")}
        if task == "choice":
            meta["options"] = choices
        answer = letter if task == "choice" else choices[ord(letter) - ord("A")]
        return Sample(f"geometry3k/{folder}", images, records.field(row, "compact_text", str), answer, task, meta)

    return records.each(_folders(reading.path), read)


def _folders(path: Path) -> Iterator[records.Placed]:
    """(place, row) of every `<number>/data.json`, in numeric order."""
    if not path.is_dir():
        raise ValueError(f"{path}: there is no such folder; expected the one that contains <number>/data.json")
    files = [file for file in path.glob("*/data.json") if file.parent.name.isdecimal() and file.is_file()]
    for file in sorted(files, key=lambda file: int(file.parent.name)):
        place = f"{file.parent.name}/data.json"
        try:
            row = decoded(text_in(file, LARGEST_SETTINGS))
        except (ValueError, RecursionError) as error:  # not JSON, not UTF-8
            yield place, ValueError(f"not JSON: {error}")
            continue
        yield (
            place,
            row if isinstance(row, dict) else ValueError(f"got a JSON {type(row).__name__}, expected an object"),
        )
