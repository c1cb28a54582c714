"""Properties of a question that formats leave implicit: its task, its option letters, the picture of a marker."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from saccade.data import records
from saccade.data.records import MARKER

ONE_BOX = ("refer", "difference", "point")
"""Tasks whose gold answer is one box."""
_NUMBERED = re.compile(r"<image(\d*)>")
_MARKED = re.compile(r"(?:^|[\s(\[,;])\(?([A-J])\s?[.):：．]", re.MULTILINE)


def letters_in(question: str) -> str:
    """The letters of the options listed in a question, such as 'ABCD'; '' if there are none."""
    marked = set(_MARKED.findall(question))
    count = next((i for i, letter in enumerate(ascii_uppercase) if letter not in marked), 0)
    return ascii_uppercase[:count] if count >= 2 else ""


def infer_task(question: str, answer: Any) -> str:
    """An option letter listed in the question is `choice`, yes or no is `yes_no`, all else is `free_form`."""
    if isinstance(answer, str):
        text = answer.strip()
        if len(text) == 1 and text in letters_in(question):
            return "choice"
        if text.rstrip(".").lower() in ("yes", "no"):
            return "yes_no"
    return "free_form"


def typed(task: str, answer: Any) -> Any:
    """The gold answer in the format of its task. ValueError when it is empty or not a box."""
    if task in ONE_BOX:
        return records.as_box(answer)
    if task == "detect":
        return records.as_detections(answer)
    if isinstance(answer, str):
        answer = answer.strip()
    if answer in ("", None):
        raise ValueError("the answer is empty; there is nothing to grade against")
    return answer


def name_pictures(question: str, options: Sequence[str], images: int = 1) -> tuple[str, list[str]]:
    """A single `<image1>` becomes the marker. Several for one file become '(picture k)', and the image comes first. If
    there are as many as images, they become markers."""
    numbered = _NUMBERED.findall(" ".join([question, *options]))
    if not any(numbered):
        return question, list(options)
    if len(numbered) == images and len(_NUMBERED.findall(question)) == images:
        return _NUMBERED.sub(MARKER, question), list(options)
    named = [_NUMBERED.sub(lambda match: f"(picture {match[1] or 1})", text) for text in [question, *options]]
    return named[0], named[1:]


def check_letter(letter: str, options: int) -> None:
    """ValueError for a letter outside the given number of options."""
    letters = ascii_uppercase[:options]
    if len(letter) != 1 or letter not in letters:
        raise ValueError(f"answer {letter!r} names none of {options} options; expected one of {', '.join(letters)}")
