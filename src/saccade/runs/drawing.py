"""A reply as a picture with its boxes, for trackers that show images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image, ImageDraw

from saccade.data.images import load_image
from saccade.geometry import to_original
from saccade.parsing import read_boxes, read_reply
from saccade.rollout.groups import Group

GOLD, PREDICTED = (0, 176, 127), (240, 106, 0)
LONGEST = 2000
"""Characters of a reply in a caption."""


def drawn_replies(groups: Sequence[Group]) -> Iterator[tuple[Image.Image, str]]:
    """(image with the true boxes and those of the best reply, caption) of each group that has images."""
    for group in groups:
        if not group.prompt.images or not group.rollouts:
            continue
        best = max(group.rollouts, key=lambda rollout: rollout.score.value if rollout.score.masked is None else -1.0)
        sample, reply = group.sample, best.completion
        index = min(sample.box_image, len(group.prompt.images) - 1)
        image = load_image(group.prompt.images[index])
        width = max(2, max(image.size) // 100)
        pen = ImageDraw.Draw(image)
        truth = [one for one in _boxes(sample.answer) if all(isinstance(value, (int, float)) for value in one)]
        found = [one.box for one in read_boxes(read_reply(reply.text).answer or "")] if truth else []
        boxes = [to_original(box, reply.frames[index]) for box in found] if index < len(reply.frames) else []
        for some, color in ((truth, GOLD), (boxes, PREDICTED)):
            for x1, y1, x2, y2 in some:
                corners = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
                pen.rectangle(tuple(min(max(value, -1e6), 1e6) for value in corners), outline=color, width=width)
        caption = (
            f"{sample.question}\ntrue answer {sample.answer}\n{reply.text[:LONGEST]}\nreward {best.score.value:.3g}"
        )
        yield image, caption


def _boxes(answer: Any) -> list[Sequence[Any]]:
    """What may be the boxes of a gold answer: four numbers, or a list of {'bbox_2d', 'label'}."""
    if not isinstance(answer, (list, tuple)):
        return []
    listed = [one["bbox_2d"] for one in answer if isinstance(one, dict) and "bbox_2d" in one]
    return listed or ([answer] if len(answer) == 4 else [])
