"""A contact sheet: items side by side with question, answer and boxes, for visual inspection."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from saccade.world.generator import WorldItem

_TILE = 224
_TEXT = 92
_GAP = 10
_PAPER, _INK, _FRAME = (255, 255, 255), (20, 20, 20), (255, 0, 200)


def _boxes(item: WorldItem) -> list[list[float]]:
    """The gold boxes, if the answer has any."""
    answer = item.sample.answer
    if not isinstance(answer, list):
        return []
    if item.sample.task == "detect":
        return [entry["bbox_2d"] for entry in answer]
    return [answer]


def _answer(item: WorldItem) -> str:
    answer = item.sample.answer
    if item.question.options:
        return f"{answer} of {', '.join(item.question.options)}"
    if item.sample.task == "detect":
        return ", ".join(entry["label"] for entry in answer) or "nothing"
    return str(answer)


def _panel(item: WorldItem) -> Image.Image:
    """One item: its images side by side, boxes drawn, text below."""
    images = item.sample.images
    panel = Image.new("RGB", (_TILE * len(images), _TILE + _TEXT), _PAPER)
    pen = ImageDraw.Draw(panel)
    for k, image in enumerate(images):
        assert isinstance(image, Image.Image)  # the world decodes its images
        panel.paste(image.resize((_TILE, _TILE), Image.Resampling.NEAREST), (k * _TILE, 0))
        if k == item.sample.box_image:
            zoom = _TILE / image.size[0]
            for x1, y1, x2, y2 in _boxes(item):
                left, right = k * _TILE + x1 * zoom, k * _TILE + x2 * zoom - 1
                pen.rectangle([left, y1 * zoom, right, y2 * zoom - 1], outline=_FRAME, width=2)
    for k in range(1, len(images)):
        pen.rectangle([k * _TILE - 2, 0, k * _TILE + 1, _TILE], fill=_PAPER)
    lines = textwrap.wrap(f"[{item.sample.meta['split']}/{item.sample.task}] {item.question.text}", 38 * len(images))
    lines += textwrap.wrap(f"= {_answer(item)}", 38 * len(images))
    pen.multiline_text((2, _TILE + 3), "\n".join(lines[:6]), fill=_INK, font=ImageFont.load_default(size=12), spacing=2)
    return panel


def contact_sheet(items: Sequence[WorldItem], columns: int = 6) -> Image.Image:
    """All items in rows of `columns` (a pair of images takes two), RGB. ValueError without items."""
    if not items:
        raise ValueError("a contact sheet needs at least one item; got none")
    panels = [_panel(item) for item in items]
    spots, column, row = [], 0, 0
    for panel in panels:
        span = panel.size[0] // _TILE
        if column and column + span > columns:
            column, row = 0, row + 1
        spots.append((column, row))
        column += span
    width = max(c * (_TILE + _GAP) + p.size[0] for p, (c, _) in zip(panels, spots, strict=True))
    sheet = Image.new("RGB", (width, (row + 1) * (_TILE + _TEXT + _GAP)), (210, 210, 210))
    for panel, (column, row) in zip(panels, spots, strict=True):
        sheet.paste(panel, (column * (_TILE + _GAP), row * (_TILE + _TEXT + _GAP)))
    return sheet
