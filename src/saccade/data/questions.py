"""What a question holds beside its words: options that it lists, the pictures of its markers."""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Sequence
from itertools import count
from string import ascii_uppercase

from saccade.data.records import MARKER, shown, with_markers

ONE_BOX = ("refer", "difference", "point")
"""Tasks whose gold answer is one box."""
MAX_LISTS = 8
"""Lists that are followed at a time, so that a text of letters stays cheap."""
_NUMBERED = re.compile(r"[<\[](?:image|img|picture)[ _-]?(\d{1,3})\s?/?[>\]]", re.IGNORECASE)
_OTHER_MARKER = re.compile(
    r"<\|vision_start\|><\|image_pad\|><\|vision_end\|>|<\|image(?:_pad|_1)?\|>|<image_soft_token>|<start_of_image>"
    r"|(?i:<(?:img|image|imagehere|image_?placeholder)\s?/?>|\[(?:image|img)\])|(?<![\w\\])\{image\}"
)
"""The place of an image as other programs write it."""
_FILE_INSIDE = re.compile(r"<img>([^<>]{1,200})</img>")
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


def place_pictures(question: str, options: Sequence[str] = (), images: int = 1) -> tuple[str, list[str]]:
    """Question and options with a MARKER for each image, or with none: then the images come first.

    Markers of other programs become MARKER where the question has one for each image. So do numbered ones (`<image1>`,
    `<image 2>`) that follow the order of the images; all others become '(picture k)', as do those of options. Several
    numbers for one image file, which contains all pictures, do too. ValueError for a picture that the row does not
    have, and for other numbers of markers.
    """
    if MARKER not in question and images and len(_OTHER_MARKER.findall(question)) == images:
        question = _OTHER_MARKER.sub(MARKER, question)
    if not images and (named := _FILE_INSIDE.search(question)):
        raise ValueError(
            f"the question names its image inside of <img> ({shown(named[1])}); name it in a field 'image'"
        )
    texts = [question, *options]
    numbers = [int(number) for text in texts for number in _NUMBERED.findall(text)]
    if not numbers and any(MARKER in option for option in options):
        number = count(1)
        texts = [re.sub(MARKER, lambda _: f"<image{next(number)}>", text) for text in texts]
        numbers = [*range(1, next(number))]
    if numbers:
        base = 0 if 0 in numbers else 1
        in_order = numbers == [*range(base, base + images)] or len(numbers) == images == 1
        if in_order and len(_NUMBERED.findall(texts[0])) == images:
            return _NUMBERED.sub(MARKER, texts[0]), list(options)
        if images != 1 and max(numbers) - base >= images:
            raise ValueError(
                f"the question has a marker of picture {max(numbers) - base + 1}, the row has {images} images"
            )
        texts = [_NUMBERED.sub(lambda match: f"(picture {int(match[1]) + 1 - base})", text) for text in texts]
    return with_markers(texts[0], images), texts[1:]
