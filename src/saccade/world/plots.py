"""Draws bar charts and labeled figures."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from saccade.world.config import Rgb
from saccade.world.glyphs import text_mask
from saccade.world.scene import Figure, Scene, TextLabel


def contrast(rgb: Rgb) -> Rgb:
    """A legible text color: near-black on a light color, near-white on a dark one."""
    return (16, 16, 16) if 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 112 else (244, 244, 244)


@lru_cache(maxsize=512)
def _stencil(text: str, scale: int) -> Image.Image:
    return Image.fromarray(text_mask(text, scale).astype(np.uint8) * 255)


def print_label(image: Image.Image, label: TextLabel, rgb: Rgb) -> None:
    """Print a label's glyphs in one color."""
    image.paste(rgb, label.at, _stencil(label.text, label.scale))


def draw_chart(image: Image.Image, scene: Scene) -> None:
    """Axis, gridlines with their numbers, and the bars of a chart scene."""
    pen, ground = ImageDraw.Draw(image), scene.background
    dark = contrast(ground.tones[0])
    left = scene.labels[0].at[0] + text_mask("0", scene.labels[0].scale).shape[1] + 2
    for label in scene.labels:
        middle = label.at[1] + text_mask(label.text, label.scale).shape[0] // 2
        pen.line([left, middle, image.size[0] - 3, middle], fill=ground.tones[1])
        print_label(image, label, dark)
    for bar in scene.bars:
        x1, y1, x2, y2 = (int(v) for v in bar.box)
        pen.rectangle([x1, y1, x2 - 1, y2 - 1], fill=bar.rgb)
    base = int(scene.bars[0].box[3])
    pen.line([left, base, image.size[0] - 3, base], fill=dark)
    pen.line([left, 3, left, base], fill=dark)


def draw_figure(image: Image.Image, scene: Scene, figure: Figure) -> None:
    """A figure with its printed numbers; a right angle is marked by a small square."""
    pen, dark = ImageDraw.Draw(image), contrast(scene.background.tones[0])
    width = max(2, image.size[0] // 56)
    pen.polygon(figure.points, fill=figure.rgb)
    pen.line([*figure.points, figure.points[0], figure.points[1]], fill=dark, width=width, joint="curve")
    if figure.name == "right triangle":
        (x, y), side = figure.points[0], image.size[0] // 14
        pen.line([(x, y - side), (x + side, y - side), (x + side, y)], fill=dark, width=max(1, width // 2))
    for label in figure.labels:
        print_label(image, label, dark)
