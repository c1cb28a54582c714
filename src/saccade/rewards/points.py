"""The reward of pointing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade import parsing
from saccade.geometry import center, contains, from_original
from saccade.rewards.answers import MISSING, answer_of
from saccade.rewards.boxes import frame_of, gold_box
from saccade.rewards.options import Where
from saccade.types import Completion, Frame, Sample, Score

if TYPE_CHECKING:
    from saccade.parsing import Point


def point_in_box(completion: Completion, sample: Sample, where: Where = "tag") -> Score:
    """1 when the answer is one point in the gold box or on its edge.

    Several points are not an answer, so listing many points earns nothing; neither is a box.

    Formula: 1 if x1 <= x <= x2 and y1 <= y <= y2, else 0.
    Source: ScreenSpot (arXiv 2401.10935), click accuracy.
    """
    answer = answer_of(completion, where)
    if answer is None:
        return Score(0.0, MISSING[where])
    right, reason = point_right(answer, sample, frame_of(sample, completion.frames))
    return Score(float(right), reason)


def point_right(answer: str, sample: Sample, frame: Frame) -> tuple[bool, str | None]:
    """Whether the answer's one point is in the gold box, both in the frame's coordinates; if not, the reason."""
    found = parsing.read_points(answer)
    if len(found) != 1:
        return False, "no point" if not found else "more than one point"
    inside = contains(from_original(gold_box(sample), frame), found[0])
    return inside, None if inside else "outside the box"


def gold_point(sample: Sample, frame: Frame) -> Point:
    """The center of the gold box in the frame's coordinates; always inside the box."""
    x, y = center(from_original(gold_box(sample), frame))
    return (round(x, 4), round(y, 4)) if frame.name == "unit" else (int(x), int(y))
