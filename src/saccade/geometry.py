"""Boxes, the coordinate frames of models, and the resize of the Qwen-VL families.

Boxes are xyxy and continuous: a box from 2 to 5 is 3 wide. A box with x2 <= x1 or y2 <= y1 (degenerate or inverted) or
with a nonfinite number has area 0, so its IoU with anything is 0; it never raises an error here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saccade.types import Box, Frame, FrameName

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

COCO_THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""IoU 0.50 to 0.95 in steps of 0.05."""
MAX_ASPECT = 200
"""Images whose sides differ by more than this factor are refused, as the image processors do."""


def area(box: Sequence[float]) -> float:
    """Width times height; 0 for a box that is degenerate, inverted or not finite."""
    width, height = box[2] - box[0], box[3] - box[1]
    inside = width > 0 and height > 0 and all(map(math.isfinite, box))
    return width * height if inside and math.isfinite(width * height) else 0.0


def intersection(a: Sequence[float], b: Sequence[float]) -> float:
    """The area that two boxes share."""
    if not (area(a) and area(b)):
        return 0.0
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union, in [0, 1]."""
    shared = intersection(a, b)
    if not shared:
        return 0.0
    return min(1.0, shared / (area(a) + area(b) - shared))


def iou_matrix(a_N4: ArrayLike, b_M4: ArrayLike) -> NDArray[np.float64]:
    """IoU of every box of `a_N4` with every box of `b_M4`: (N, M) in [0, 1]."""
    import numpy as np  # not above: rewards, and so recipes, import this module

    a = np.asarray(a_N4, dtype=np.float64).reshape(-1, 1, 4)
    b = np.asarray(b_M4, dtype=np.float64).reshape(1, -1, 4)
    with np.errstate(all="ignore"):
        sides_a, sides_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
        shared = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
        overlap = shared[..., 0] * shared[..., 1]
        ratio = overlap / (sides_a[..., 0] * sides_a[..., 1] + sides_b[..., 0] * sides_b[..., 1] - overlap)
        valid = (shared > 0).all(-1) & (sides_a > 0).all(-1) & (sides_b > 0).all(-1) & np.isfinite(ratio)
    return np.where(valid, ratio, 0.0)


def center(box: Sequence[float]) -> tuple[float, float]:
    """The center point (x, y)."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def contains(box: Sequence[float], point: Sequence[float]) -> bool:
    """True when the point (x, y) is in the box or on its edge."""
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def clip(box: Sequence[float], size: tuple[int, int]) -> Box:
    """The box cut to an image of `size` (width, height) in the same units; outside degenerate on the edge."""
    width, height = size
    x1, x2 = (min(max(x, 0.0), float(width)) for x in (box[0], box[2]))
    y1, y2 = (min(max(y, 0.0), float(height)) for y in (box[1], box[3]))
    return x1, y1, x2, y2


def smart_resize(
    height: int, width: int, factor: int = 28, min_pixels: int = 56 * 56, max_pixels: int = 14 * 14 * 4 * 1280
) -> tuple[int, int]:
    """(height, width) of a model's input: multiples of `factor`, area within bounds, aspect kept as nearly as possible.

    Equal to the image processors of Qwen2-VL and Qwen2.5-VL (factor 28) and Qwen3-VL (factor 32): halves round to even,
    and the bounds hold for the rounded area. Raises ValueError for an image without area or with aspect above 200.
    """
    if min(height, width) < 1:
        raise ValueError(f"got an image of {width} x {height} pixels, expected at least 1 x 1")
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise ValueError(
            f"got an image of {width} x {height} pixels, expected sides that differ by at most {MAX_ASPECT} times; "
            "crop or remove the image"
        )
    rows, columns = round(height / factor), round(width / factor)
    if rows * columns * factor**2 > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows, columns = (max(1, math.floor(side / shrink / factor)) for side in (height, width))
    elif rows * columns * factor**2 < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows, columns = (math.ceil(side * grow / factor) for side in (height, width))
    return rows * factor, columns * factor


# -------------------------------------------------------------------------------------------------------------- frames


@dataclass(frozen=True, slots=True)
class _Scale:
    """The coordinates of a frame."""

    extent: Callable[[Frame], tuple[float, float]]
    """The image's (width, height) in the frame's units."""
    decimals: int = 0
    y_first: bool = False
    below: int = 0
    """Extent - largest number of the frame: 1,024 bins end at 1023."""


FRAMES: dict[FrameName, _Scale] = {
    "pixels_resized": _Scale(lambda frame: frame.size_input),  # Qwen2.5-VL
    "pixels_original": _Scale(lambda frame: frame.size_original),  # data sets, detectors
    "thousand": _Scale(lambda frame: (1000, 1000)),  # Qwen2-VL, Qwen3-VL, InternVL, GLM-V
    "thousand_yx": _Scale(lambda frame: (1000, 1000), y_first=True),  # Gemini
    "bins_1024": _Scale(lambda frame: (1024, 1024), below=1),  # PaliGemma; its tokens are read into x, y order
    "unit": _Scale(lambda frame: (1, 1), 4),  # LLaVA-OneVision
}


def to_original(box: Sequence[float], frame: Frame) -> Box:
    """A box of a reply, in `frame`, as xyxy pixels of the original image. Not rounded, not clipped."""
    (per_x, per_y), (x1, y1, x2, y2) = _pixels_per_unit(frame), _ordered(box, frame)
    return x1 * per_x, y1 * per_y, x2 * per_x, y2 * per_y


def from_original(box: Sequence[float], frame: Frame) -> Box:
    """An xyxy box in pixels of the original image, converted to the coordinates of a reply in `frame`.

    Rounded to whole numbers, or 4 decimals in `unit`. A box with area keeps a positive area: a side that would round to
    0 becomes one step long, so that a gold answer is always a box.
    """
    per_x, per_y = _pixels_per_unit(frame)
    scale = FRAMES[frame.name]
    width, height = (extent - scale.below for extent in scale.extent(frame))
    x1, x2 = _round_side(box[0], box[2], per_x, width, scale)
    y1, y2 = _round_side(box[1], box[3], per_y, height, scale)
    return _ordered((x1, y1, x2, y2), frame)


def _ordered(box: Sequence[float], frame: Frame) -> Box:
    """Swaps x and y for a frame with y first; its own inverse."""
    x1, y1, x2, y2 = box
    return (y1, x1, y2, x2) if FRAMES[frame.name].y_first else (x1, y1, x2, y2)


def _pixels_per_unit(frame: Frame) -> tuple[float, float]:
    width, height = FRAMES[frame.name].extent(frame)
    return frame.size_original[0] / width, frame.size_original[1] / height


def _round_side(low: float, high: float, per: float, largest: float, scale: _Scale) -> tuple[float, float]:
    """Both ends in units of `per` pixels, rounded. A side that would round to 0 becomes one step around its center,
    limited to the largest number."""
    start, end = (round(v / per, scale.decimals or None) for v in (low, high))
    if scale.below:
        start, end = min(start, largest), min(end, largest)
    if start != end or high <= low:
        return start, end
    step = 10**-scale.decimals if scale.decimals else 1
    start = min(math.floor((low + high) / 2 / per / step) * step, largest - step)
    end = start + step
    return (round(start, scale.decimals), round(end, scale.decimals)) if scale.decimals else (start, end)
