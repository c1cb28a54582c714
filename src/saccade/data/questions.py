"""What a question holds beside its words: options that it lists, the pictures of its markers."""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Sequence
from string import ascii_uppercase

from saccade.data.records import MARKER

ONE_BOX = ("refer", "difference", "point")
"""Tasks whose gold answer is one box."""
MAX_LISTS = 8
"""Lists that are followed at a time, so that a text of letters stays cheap."""
_NUMBERED = re.compile(r"<image(\d*)>")
_MARKED = re.compile(r"(?:^|(?<=[\s(\[,;]))[(\[]?([A-Ja-jＡ-Ｊ])\s?[.)\]:：．、）]\s*", re.MULTILINE)


def listed_options(question: str) -> list[str]:
    """The texts of the options that a question lists behind A, B, C, .. in any usual notation, upper or lower case; the
    letters alone if one has no text, [] if there are fewer than two."""
    runs: deque[list[re.Match[str]]] = deque(maxlen=MAX_LISTS)
    for mark in _MARKED.finditer(question):
        letter = unicodedata.normalize("NFKC", mark[1])
        for run in runs:
            if ord(letter) == ord(unicodedata.normalize("NFKC", run[-1][1])) + 1:
                run.append(mark)
                break
        if letter in "Aa":
            runs.append([mark])
    run = max(reversed(runs), key=len, default=[])
    if len(run) < 2:
        return []
    ends = [*(mark.start() for mark in run[1:]), len(question)]
    texts = [question[mark.end() : end] for mark, end in zip(run, ends, strict=True)]
    options = [text.split("\n")[0].strip().rstrip(",;").strip() for text in texts]
    return options if all(options) else list(ascii_uppercase[: len(options)])


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
