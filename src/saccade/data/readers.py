"""Formats: a reader turns the files of a data set into samples. A new one is one function and its line in `READERS`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from saccade.data import records
from saccade.data.records import MARKER, Row
from saccade.types import Sample

METHOD_TASKS: dict[str, str] = {
    "mcq": "choice",
    "yes_no": "yes_no",
    "math": "free_form",
    "numeric": "free_form",
    "all_match": "text",
    "map": "detect",
    "od_ap": "detect",
    "od_ap50": "detect",
    "odLength": "detect",
    "weighted_sum": "detect",
}
"""VLM-R1's `accu_reward_method` -> task. 'llm' asks a judge and is not here; 'default' goes by the answer."""


@dataclass(frozen=True)
class Reading:
    """Where a reader looks and what it does with a row that is not right."""

    path: Path
    image_folder: Path
    """Image names are relative to it."""
    task: str | None = None
    """Task of rows that name none."""
    skip_bad: bool = False
    checked: set[str] = field(default_factory=set)
    """Images whose header was read."""


@dataclass(frozen=True)
class Rows:
    """What a reader found."""

    samples: list[Sample]
    skipped: int = 0
    """Rows that were not right; 0 unless `skip_bad`."""


def vlm_r1(reading: Reading) -> Rows:
    """JSONL of VLM-R1: `image` (a name or a list), `conversations` (question, answer), `accu_reward_method`.

    The columns `task`, `answer` and `meta`, which `saccade world make` writes, go before what the others imply.
    """

    def read(row: Row, place: str) -> Sample:
        names = records.field(row, "image", (str, list))
        images = records.image_paths(names, reading.image_folder, reading.checked)
        question, said = _turns(records.field(row, "conversations", list))
        task = row.get("task") or _task_of(row.get("accu_reward_method", "default"), reading.task, said)
        answer = row["answer"] if "answer" in row else _answer(task, said)
        meta = {"place": place} | (records.field(row, "meta", dict) if "meta" in row else {})
        question = records.with_markers(question, len(images))
        return Sample(str(row.get("id", place)), images, question, _typed(task, answer), task, meta)

    return _collect(records.jsonl_rows(reading.path), read, reading)


def math_vision(reading: Reading) -> Rows:
    """JSONL of MATH-Vision: `question` with `<image1>` markers, `options` (may be empty), `answer`, one `image`.

    The one file of a question with several markers shows all its pictures: the image then comes first and the markers
    become '(picture k)'. A letter as gold without options is a choice question whose options are in the image.
    """

    def read(row: Row, place: str) -> Sample:
        images = records.image_paths(records.field(row, "image", str), reading.image_folder, reading.checked)
        options = [str(option) for option in records.field(row, "options", list)]
        question, options = _name_pictures(records.field(row, "question", str), options)
        answer = str(records.field(row, "answer", (str, int, float))).strip()
        if not answer:
            raise ValueError("field 'answer' is empty; expected a letter, a number or a formula")
        meta = {"place": place, "options": options, "level": row.get("level"), "subject": row.get("subject")}
        pictured = not options and re.fullmatch("[A-E]", answer) is not None
        if pictured:
            meta["options"] = list("ABCDE")
        if options:
            _check_letter(answer, len(options))
        task = "choice" if options or pictured else "free_form"
        return Sample(str(row.get("id", place)), images, question, answer, reading.task or task, meta)

    return _collect(records.jsonl_rows(reading.path), read, reading)


def geometry3k(reading: Reading) -> Rows:
    """Geometry3K's original folders: `<number>/data.json` beside `img_diagram.png`; all are choice questions.

    With `task: free_form` the gold is the text of the right choice.
    """

    def read(row: Row, place: str) -> Sample:
        folder = str(Path(place).parent.name)
        images = records.image_paths(f"{folder}/img_diagram.png", reading.image_folder, reading.checked)
        choices = [str(choice) for choice in records.field(row, "compact_choices", list)]
        letter = records.field(row, "answer", str).strip()
        _check_letter(letter, len(choices))
        task = reading.task or "choice"
        meta: dict[str, Any] = {"place": place, "letter": letter, "precise_value": row.get("precise_value")}
        if task == "choice":
            meta["options"] = choices
        answer = letter if task == "choice" else choices[ascii_uppercase.index(letter)]
        return Sample(f"geometry3k/{folder}", images, records.field(row, "compact_text", str), answer, task, meta)

    return _collect(_folders(reading.path), read, reading)


READERS: dict[str, Callable[[Reading], Rows]] = {
    "vlm_r1": vlm_r1,
    "math_vision": math_vision,
    "geometry3k": geometry3k,
}


# --------------------------------------------------------------------------------------------------------------- parts


def _collect(rows: Iterator[records.Placed], read: Callable[[Row, str], Sample], reading: Reading) -> Rows:
    samples, skipped = records.collect(rows, read, reading.skip_bad)
    if not samples:
        raise ValueError(f"{reading.path}: no usable row ({skipped} skipped)")
    return Rows(samples, skipped)


def _folders(path: Path) -> Iterator[records.Placed]:
    """(place, row) of every `<number>/data.json`, in order of the numbers."""
    if not path.is_dir():
        raise ValueError(f"{path}: there is no such folder; expected the one that holds <number>/data.json")
    files = [file for file in path.glob("*/data.json") if file.parent.name.isdigit()]
    for file in sorted(files, key=lambda file: int(file.parent.name)):
        try:
            row = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            row = ValueError(f"not JSON: {error}")
        yield f"{file.parent.name}/data.json", row


def _turns(conversations: list[Any]) -> tuple[str, Any]:
    """The question and the answer: values of the first two turns."""
    turns = [turn.get("value") for turn in conversations if isinstance(turn, dict)]
    if len(turns) < 2 or not isinstance(turns[0], str) or turns[1] is None:
        expected = "a question and an answer, each {'value': ...}"
        raise ValueError(f"field 'conversations': got {conversations!r}, expected {expected}")
    return turns[0], turns[1]


def _task_of(method: str, given: str | None, answer: Any) -> str:
    """The task that VLM-R1's reward method stands for; without one, a box answer refers and all else is free form."""
    if method in METHOD_TASKS:
        return METHOD_TASKS[method]
    if method != "default":
        known = ", ".join(METHOD_TASKS)
        raise ValueError(f"accu_reward_method {method!r} has no task here; expected one of {known}, or give 'task'")
    return given or ("refer" if isinstance(answer, list) else "free_form")


def _answer(task: str, said: Any) -> Any:
    """The gold inside an answer turn: within its answer tags, when it has them."""
    if not isinstance(said, str):
        return said
    tagged = re.search(r"<answer>(.*?)</answer>", said, re.DOTALL)
    text = (tagged.group(1) if tagged else said).strip()
    if task != "refer":
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise ValueError(f"answer {text!r} is no box; expected [x1, y1, x2, y2] in image pixels") from None


def _typed(task: str, answer: Any) -> Any:
    """The gold in its task's form."""
    if task == "refer":
        return records.as_box(answer)
    if task == "detect":
        return records.as_detections(answer)
    if isinstance(answer, str):
        answer = answer.strip()
    if answer in ("", None):
        raise ValueError("the answer is empty; a rule has nothing to check")
    return answer


def _name_pictures(question: str, options: list[str]) -> tuple[str, list[str]]:
    """`<image1>` alone becomes the marker; of several, each becomes '(picture k)' of the image, which comes first."""
    pattern = re.compile(r"<image(\d*)>")
    if len(pattern.findall(" ".join([question, *options]))) == 1 and pattern.search(question):
        return pattern.sub(MARKER, question), options
    named = [pattern.sub(lambda match: f"(picture {match[1]})", text) for text in [question, *options]]
    return named[0], named[1:]


def _check_letter(letter: str, options: int) -> None:
    letters = ascii_uppercase[:options]
    if len(letter) != 1 or letter not in letters:
        raise ValueError(f"answer {letter!r} names none of {options} options; expected one of {', '.join(letters)}")
