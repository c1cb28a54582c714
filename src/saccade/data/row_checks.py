"""What is checked of one sample: its boxes, its gold answer, the size of its images, words left in its question."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from string import ascii_uppercase
from typing import Any

from saccade.data.golds import LONGEST_GOLD, boxes_of, gold_letters
from saccade.data.questions import listed_options
from saccade.data.records import MARKER, shown
from saccade.parsing.option_texts import own_text
from saccade.rewards import Rubric
from saccade.tasks import TASKS
from saccade.types import Box, Completion, Frame, Sample

Fault = tuple[str, str]
"""(kind, message)."""
RUBRICS = ("hard", "default")
"""Rubrics of each task: the one that gives 1 only when format and answer are both right, and the default of RL."""
ROUNDING = 1e-9
"""Tolerance for a sum of weights."""
SLACK = 0.5
"""Pixels by which a box may exceed its image, for rounding."""
THOUSAND = 1000
WIDE = 1400
"""Pixels of a side on which boxes of an honest data set would exceed 1000 somewhere."""
ENOUGH_BOXES = 10
TEXTS = ("free_form", "text", "exact_text")
"""Tasks that take any gold, also one that belongs to another task."""
_N, _COMMA = r"\d+(?:\.\d+)?", r"\s{0,9},\s{0,9}"
_FOUR = rf"\s{{0,9}}{_N}(?:{_COMMA}{_N}){{3}}\s{{0,9}}"
_COORDINATES = re.compile(
    r"<\|?box(?:_start\|)?>|<loc_?\d{1,4}>|<points?>|<\|?point_start\|>|[\"'](?:bbox|bbox_2d|box_2d|point_2d|position)[\"']\s?:"
    rf"|^\s{{0,9}}\[\s{{0,9}}[(\[]\s{{0,9}}{_N}{_COMMA}{_N}(?:{_COMMA}{_N}{_COMMA}{_N})?\s{{0,9}}[)\]]"
    rf"|^\s{{0,9}}\[\s{{0,9}}{_N}(?:[\s;，、]{{1,9}}{_N}){{3}}\s{{0,9}}\]"
    rf"|^\s{{0,9}}(?:[a-z_]{{3,12}}\s?[:=]\s?\[{_FOUR}\]|\[{_FOUR}\]\.)"
    rf"|\bx_?(?:1|min)\W{{1,6}}{_N}\W{{1,6}}y_?(?:1|min)\W{{1,6}}{_N}\W{{1,6}}x_?(?:2|max)\W{{1,6}}\d",
    re.IGNORECASE,
)
_FOUR_NUMBERS = re.compile(rf"\(?\s{{0,9}}{_N}(?:[\s,;]{{1,9}}{_N}){{3}}\s{{0,9}}\)?")
_ASKS_FOR_A_BOX = re.compile(r"bounding box|bbox|\bthe box|检测框|边界框", re.IGNORECASE)
_OPTION_LETTER = re.compile(r"(?:^|[\s,;])[(\[]?(?:[A-Ja-j][)\].:、]|[A-J]$)")
_LEFT_MARKERS = re.compile(
    r"<\s?/?(?:img|image[ _-]?\d{0,3}|imagehere|image_?placeholder|picture[ _-]?\d{0,3})\s?/?>"
    r"|<img\s[^<>]{0,200}>|!\[[^\[\]]{0,99}\]\([^()\s]{1,200}\)"
    r"|<(?:\w{1,9}_image|im_patch|im_start|speech|sound|\|?(?:audio|video)\w{0,9}\|?)>"
    r"|\[(?:image|img|audio|video)[ _-]?\d{0,3}\]",
    re.IGNORECASE,
)


@dataclass
class CoordinateRange:
    """Coordinates of boxes on wide sides of images: thousandths never exceed 1000."""

    count: int = 0
    highest: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.highest = max(self.highest, value)

    @property
    def looks_like_thousandths(self) -> bool:
        return self.count >= ENOUGH_BOXES and 0.9 * THOUSAND <= self.highest <= THOUSAND


@dataclass
class BoxUnits:
    """Evidence, per source, that boxes are in thousandths instead of pixels."""

    ranges: defaultdict[str, CoordinateRange] = field(default_factory=lambda: defaultdict(CoordinateRange))

    def add(self, source: str, sample: Sample, sizes: Sequence[tuple[int, int]]) -> None:
        if len(sizes) == 1:
            for box in boxes_in(sample.answer):
                for axis in (0, 1):
                    if sizes[0][axis] >= WIDE:
                        self.ranges[source].add(box[2 + axis])

    def faults(self) -> Iterator[tuple[str, Fault]]:
        for source, found in self.ranges.items():
            if found.looks_like_thousandths:
                text = (
                    f"no coordinate of {found.count:,} exceeds {found.highest:g} on images of {WIDE} pixels and more: "
                    "the boxes look like thousandths; expected pixels of the original image"
                )
                yield source or "boxes", ("box units", text)


def check_boxes(sample: Sample, sizes: Sequence[tuple[int, int]]) -> Iterator[Fault]:
    """Boxes outside their image, with their corners in the wrong order, or in other units than pixels."""
    index = sample.meta.get("image_index")
    within = sizes if not isinstance(index, int) or not 0 <= index < len(sizes) else [sizes[index]]
    for box in boxes_in(sample.answer):
        x1, y1, x2, y2 = box
        if x1 > x2 or y1 > y2:
            yield "box", f"box {list(box)} has x1 > x2 or y1 > y2; expected xyxy in image pixels, not xywh"
        elif x1 == x2 or y1 == y2:
            yield "box", f"box {list(box)} is empty; expected x1 < x2 and y1 < y2"
        elif min(x1, y1) >= 0 and max(x2, y2) <= 1 and any(min(size) > 1 for size in within):
            yield "box units", f"box {list(box)} looks like shares of the image from 0 to 1; expected pixels"
        elif not any(min(x1, y1) >= -SLACK and x2 <= w + SLACK and y2 <= h + SLACK for w, h in within):
            hint = " (thousandths?)" if max(x2, y2) <= THOUSAND and min(x1, y1) >= 0 else ""
            yield (
                "box outside",
                f"box {list(box)} is not inside its image {within}; expected xyxy in original pixels{hint}",
            )


def check_size(sample: Sample, sizes: Sequence[tuple[int, int]]) -> Iterator[Fault]:
    """The size that the annotation gives, against the file's."""
    given = sample.meta.get("annotated_size")
    if given is None or len(sizes) != 1 or tuple(given) == sizes[0]:
        return
    width, height = sizes[0]
    if tuple(given) == (height, width):
        why = "the sides are swapped; if the file has an EXIF turn, boxes must be in pixels of the turned image"
    else:
        why = "boxes would be misplaced; write the size and the boxes of this file"
    yield "image size", f"the annotation gives {given[0]} x {given[1]}, the image has {width} x {height}: {why}"


def check_words(sample: Sample, texts: Sequence[str], reserved: Sequence[str]) -> Iterator[Fault]:
    """Tokens of models, and markers of other programs, in what should be plain text; `texts[0]` is the question."""
    found = [token for token in reserved if token != MARKER and any(token in text for text in texts)]
    found += [MARKER for text in texts[1:] if MARKER in text][:1]
    for token in found:
        yield "placeholder", f"the text contains {token}, which models parse as an image or a turn; remove it"
    for text in texts[:1]:
        marks = [one for one in _LEFT_MARKERS.findall(text) if one != MARKER]
        if marks:
            yield "marker", f"the question has {marks[0]}, which stays a word; write {MARKER} where the image belongs"


def check_form(sample: Sample) -> Iterator[Fault]:
    """A gold that looks like the gold of another task."""
    if sample.task not in TEXTS:
        return
    if sample.images and isinstance(sample.answer, str) and (boxes := boxes_of(sample.answer)) is not None:
        task = "refer" if isinstance(boxes, tuple) else "detect"
        yield (
            "gold form",
            f"the gold {shown(sample.answer)} looks like a box, the task is '{sample.task}'; set task: {task}",
        )
        return
    if not isinstance(sample.answer, str):
        return
    answer = sample.answer[:LONGEST_GOLD]
    asked = _ASKS_FOR_A_BOX.search(sample.question) and _FOUR_NUMBERS.fullmatch(answer.strip())
    if sample.images and (found := asked or _COORDINATES.search(answer)):
        yield "gold form", f"the gold has coordinates ({found[0]}), the task is '{sample.task}'; write them as a box"
        return
    options = listed_options(sample.question)
    if not options and re.fullmatch("[A-E]", sample.answer.strip()):
        yield (
            "gold form",
            f"the gold {sample.answer.strip()!r} is a letter, and the row lists no options; name their column (source "
            "table, columns: {options: ..}), or set task: choice if they are in the image",
        )
    if not options:
        return
    letter = sample.answer.strip()
    if len(letter) == 1 and letter.upper() in ascii_uppercase[: len(options)]:
        yield "gold form", f"the gold {letter!r} names a listed option, the task is '{sample.task}'; set task: choice"
    elif _OPTION_LETTER.match(letter) and len(_OPTION_LETTER.findall(answer)) == 1:
        yield (
            "gold form",
            f"the gold {shown(letter)} has the letter of an option, but names none of the {len(options)} that the "
            "question lists; correct one of them",
        )


def check_gold(
    sample: Sample, frames: tuple[Frame, ...], read_back: Callable[[str], str] | None = None
) -> Iterator[Fault]:
    """Whether a gold answer, written as a reply in the forms that people use, scores 1 under its own task (and under
    the reward that the row names).

    `read_back` turns a reply into what rewards read when the model samples its tokens after this prompt, whose chat
    template may already have opened the thought.
    """
    gold = shown(sample.answer)
    for answer in (None, *other_forms(sample)):
        try:
            written = TASKS[sample.task].write_gold(sample, frames)
            if answer is not None:
                before, _, rest = written.partition("<answer>")
                written = f"{before}<answer>{answer}</answer>{rest.rpartition('</answer>')[2]}" if rest else written
            completion = Completion(written if read_back is None else read_back(written), frames=frames)
            scores = {name: _rubric(sample.task, name)(completion, sample) for name in RUBRICS}
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
            yield "gold", f"the gold {gold} cannot be written for task '{sample.task}': {error}"
            return
        for name, score in scores.items():
            if abs(score.value - 1) > ROUNDING:
                reasons = "; ".join(f"{part}: {reason}" for part, reason in score.reasons.items())
                why = score.masked or reasons or score.reason
                what = f"the gold {gold}" + (f", answered as {answer!r}," if answer is not None else "")
                got = f"{what} scores {score.value:g} under its own task '{sample.task}' (rubric '{name}')"
                yield "gold", f"{got}, expected 1 ({why})"
                return


def other_forms(sample: Sample) -> list[str]:
    """Further answers that mean the gold: of a choice, its text, and the letter with the text."""
    options = sample.meta.get("options") or ()
    if sample.task != "choice" or not options or len(options) > len(ascii_uppercase):
        return []
    try:
        letter = gold_letters(sample.answer, [str(one) for one in options])[0]
    except ValueError:
        return []
    texts = [own_text(one, str(text)).strip() for one, text in zip(ascii_uppercase, options, strict=False)]
    text = texts[ascii_uppercase.index(letter)]
    if not text or text.upper() in ascii_uppercase[: len(options)] or MARKER in text or texts.count(text) > 1:
        return []
    return [f"{letter}. {text}", f"({letter}) {text}"]


@cache
def _rubric(task: str, name: str) -> Rubric:
    return TASKS[task].rubric(name)


def boxes_in(answer: Any) -> Iterator[Box]:
    """The boxes in an answer: the answer itself, or those of a list of detections."""
    if isinstance(answer, tuple | list) and len(answer) == 4 and all(isinstance(v, int | float) for v in answer):
        yield (answer[0], answer[1], answer[2], answer[3])
    elif isinstance(answer, list):
        for item in answer:
            if isinstance(item, dict) and "bbox_2d" in item:
                yield from boxes_in(item["bbox_2d"])
