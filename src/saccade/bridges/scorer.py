"""One reply and one row of another trainer, scored by a reward of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from saccade.bridges.frames import FrameOf, frame_of
from saccade.config import said
from saccade.data.golds import pose
from saccade.data.images import image_size
from saccade.data.records import options_of, untagged
from saccade.data.trainers import GOLDS
from saccade.faults import listed
from saccade.rewards import Part, PartConfig
from saccade.rewards.rubric import score_part
from saccade.rewards.table import canonical, is_file, reads_answer
from saccade.types import Completion, FrameName, Sample, Score

PICTURES = ("images", "image", "image_size")
"""Columns of a row's images and of their sizes."""
BOXES = ("refer", "point", "detect")
"""Tasks whose answers are in an image's coordinates."""
TASK_OF = {
    "rec_iou": "refer",
    "rec_iou_at": "refer",
    "rec_iou_dynamic": "refer",
    "vlm_r1/iou": "refer",
    "point_in_box": "point",
    "choice": "choice",
    "choices": "choices",
    "yes_no": "yes_no",
    **dict.fromkeys(("detection_map", "detection_ap50", "detection_od_length"), "detect"),
    **dict.fromkeys(("detection_weighted_sum", "detection_f1"), "detect"),
    **dict.fromkeys(("vlm_r1/map", "vlm_r1/od_ap", "vlm_r1/od_ap50", "vlm_r1/odLength"), "detect"),
    "vlm_r1/weighted_sum": "detect",
}
"""Reward -> task whose gold it needs; all others take the gold as it is."""


@dataclass(frozen=True)
class Scorer:
    """A reward with what it needs to know about another trainer's rows.

    scorer = Scorer.of("rec_iou", frame="thousand")
    scorer.score("<think>..</think><answer>[1, 2, 30, 40]</answer>", {"solution": [2, 4, 60, 80], "image": image})
    """

    name: str
    part: Part
    task: str | None
    gold: str | None
    """Column of the gold; None: the first of `saccade.data.trainers.GOLDS` that a row has."""
    frame: FrameOf | None
    opening: str
    """Text that the chat template writes before the reply, such as `<think>`."""

    @classmethod
    def of(
        cls,
        reward: str | PartConfig,
        *,
        processor: Any = None,
        frame: FrameName | None = None,
        gold: str | None = None,
        opening: str = "",
        task: str | None = None,
    ) -> Scorer:
        """The scorer of a reward by name, of `path/to/file.py:function`, or of one with options.

        Raises ValueError for an unknown reward or option, and for a reward of boxes without `processor` or `frame`.
        """
        try:
            config = PartConfig(name=reward) if isinstance(reward, str) else reward
        except ValidationError as error:
            raise ValueError(said(error)) from None
        task = task or TASK_OF.get(_accuracy(config))
        frames = frame_of(processor, frame) if frame or task in BOXES else None
        return cls(config.name, config.build(), task, gold, frames, opening)

    def score(self, text: str, row: dict[str, Any], token_ids: Sequence[int] = ()) -> Score:
        """The score of a reply; masked, with the reason, where our own code fails. ValueError for a row without its
        gold or without the image (or `image_size`) that boxes need."""
        sample, frames = self._sample(row), ()
        if self.frame is not None:
            frames = tuple(self.frame(size) for size in sizes_of(row, self.name))
        completion = Completion(self.opening + text, tuple(token_ids), frames=frames)
        return score_part(self.part, completion, sample)

    def _sample(self, row: dict[str, Any]) -> Sample:
        names = (self.gold,) if self.gold else GOLDS
        found = next((row[key] for key in names if _given(row.get(key))), None)
        meta = {key: value for key, value in row.items() if key not in (*PICTURES, *names) and value is not None}
        name = str(row.get("id", row.get("index", "row")))
        if found is None:
            if not is_file(self.name) and not reads_answer(self.name):
                return Sample(name, (), "", "", self.task or "free_form", meta)
            raise ValueError(
                f"reward '{self.name}': row {name!r} has no gold; expected a column {', '.join(names)}, got "
                f"{listed(sorted(row))}; name it with gold="
            )
        question = str(row.get("question") or text_of(row.get("prompt") or row.get("messages")))
        try:
            return pose(name, (), question, untagged(_plain(found)), self.task, meta, options_of(row))
        except ValueError as error:
            raise ValueError(f"reward '{self.name}': row {name!r}: {error}") from None


def sizes_of(row: Mapping[str, Any], reward: str) -> list[tuple[int, int]]:
    """(width, height) in pixels of each image of a row: from `image_size`, else from `images` or `image`."""
    given = row.get("image_size")
    if _given(given):
        sizes = _plain(given)
        sizes = [sizes] if isinstance(sizes[0], int | float) else sizes
        return [(int(width), int(height)) for width, height in sizes]
    images = next((row[key] for key in ("images", "image") if _given(row.get(key))), None)
    if images is None:
        raise ValueError(
            f"reward '{reward}' compares boxes, so it needs each image's size: expected a column images, image or "
            f"image_size ([width, height] in pixels), got {listed(sorted(row))}"
        )
    return [image_size(_source(one)) for one in (images if isinstance(images, list | tuple) else [images])]


def _source(image: Any) -> Any:
    """An image as rows of data sets have it: decoded, a path, bytes, or {"bytes", "path"}."""
    if isinstance(image, Mapping):
        return image.get("bytes") or image.get("path")
    return image


def _accuracy(config: PartConfig) -> str:
    """The reward that reads the answer: of a reward around another, the inner one."""
    return canonical(str(config.options.get("accuracy", config.name)))


def _given(value: Any) -> bool:
    return value is not None and not (isinstance(value, str | list | tuple) and not value)


def _plain(value: Any) -> Any:
    """A numpy array, as data frames hold lists, as a list; JSON text of a list or object as such."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def text_of(completion: Any) -> str:
    """The text of a completion that is a text, or messages of which the last is the reply."""
    while isinstance(completion, list | tuple) and completion:
        last = completion[-1]
        content = last.get("content", last.get("text", "")) if isinstance(last, Mapping) else last
        if isinstance(content, list | tuple):
            return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
        completion = content
    return completion if isinstance(completion, str) else ""
