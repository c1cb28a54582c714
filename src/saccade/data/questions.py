"""What formats leave unsaid of a question: its kind, its letters, which picture a marker means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from saccade.data import records
from saccade.data.records import MARKER

ONE_BOX = ("refer", "difference", "point")
"""Tasks whose gold is one box."""
_NUMBERED = re.compile(r"<image(\d*)>")
_MARKED = re.compile(r"(?:^|[\s(\[,;])\(?([A-J])\s?[.):：．]", re.MULTILINE)


def letters_in(question: str) -> str:
    """The letters of the options that a question lists itself, 'ABCD'; '' when it lists none."""
    marked = set(_MARKED.findall(question))
    count = next((i for i, letter in enumerate(ascii_uppercase) if letter not in marked), 0)
    return ascii_uppercase[:count] if count >= 2 else ""


def infer_task(question: str, answer: Any) -> str:
    """A letter of the options that the question lists is a choice, yes or no is that, all else free form."""
    if isinstance(answer, str):
        said = answer.strip()
        if len(said) == 1 and said in letters_in(question):
            return "choice"
        if said.rstrip(".").lower() in ("yes", "no"):
            return "yes_no"
    return "free_form"


def typed(task: str, answer: Any) -> Any:
    """The gold in its task's form. ValueError when it is empty or no box."""
    if task in ONE_BOX:
        return records.as_box(answer)
    if task == "detect":
        return records.as_detections(answer)
    if isinstance(answer, str):
        answer = answer.strip()
    if answer in ("", None):
        raise ValueError("the answer is empty; a rule has nothing to check")
    return answer


def name_pictures(question: str, options: Sequence[str], images: int = 1) -> tuple[str, list[str]]:
    """`<image1>` alone becomes the marker; of several for one file, each becomes '(picture k)' of the image, which
    comes first. As many as there are images become markers."""
    numbered = _NUMBERED.findall(" ".join([question, *options]))
    if not any(numbered):
        return question, list(options)
    if len(numbered) == images and len(_NUMBERED.findall(question)) == images:
        return _NUMBERED.sub(MARKER, question), list(options)
    named = [_NUMBERED.sub(lambda match: f"(picture {match[1] or 1})", text) for text in [question, *options]]
    return named[0], named[1:]


def check_letter(letter: str, options: int) -> None:
    """ValueError for a letter that names none of so many options."""
    letters = ascii_uppercase[:options]
    if len(letter) != 1 or letter not in letters:
        raise ValueError(f"answer {letter!r} names none of {options} options; expected one of {', '.join(letters)}")
