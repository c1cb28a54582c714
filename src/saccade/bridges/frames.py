"""Coordinates of a model's boxes, without an adapter: from a processor of transformers, or named."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

from saccade.geometry import smart_resize
from saccade.types import Frame, FrameName

FRAMES: dict[str, FrameName] = {
    "Qwen2VLProcessor": "thousand",
    "Qwen2_5_VLProcessor": "pixels_resized",
    "Qwen3VLProcessor": "thousand",
    "Glm4vProcessor": "thousand",
    "Glm46VProcessor": "thousand",
    "InternVLProcessor": "thousand",
    "Idefics3Processor": "unit",
    "SmolVLMProcessor": "unit",
    "LlavaOnevisionProcessor": "unit",
    "Gemma3Processor": "thousand",
    "Gemma4Processor": "thousand",
    "MiniCPMV4_6Processor": "thousand",
}
"""Class of a processor -> coordinates in which its family writes boxes, as in `saccade.models.families`."""

FrameOf = Callable[[tuple[int, int]], Frame]
"""(width, height) of an original image -> the frame of a reply about it."""


def frame_of(processor: Any = None, frame: FrameName | None = None) -> FrameOf:
    """How boxes of a reply relate to pixels: by `frame`, else by the family of `processor`.

    Raises ValueError for a processor whose family is unknown and for an unknown frame. For pixels of the resized image
    the size is computed from the image processor's patch size and pixel limits, as its own code does.
    """
    names = ", ".join(get_args(FrameName))
    if frame is not None and frame not in get_args(FrameName):
        raise ValueError(f"frame is {frame!r}, expected one of {names}")
    family = next((one.__name__ for one in type(processor).__mro__ if one.__name__ in FRAMES), None)
    if frame is None and family is None:
        got = "neither processor nor frame" if processor is None else f"processor {type(processor).__name__}"
        raise ValueError(f"got {got}, expected a processor of {', '.join(FRAMES)}, or frame=, one of {names}")
    name = frame or FRAMES[str(family)]
    if name != "pixels_resized":
        return lambda size: Frame(name, size, size)
    if processor is None:
        raise ValueError("frame='pixels_resized' depends on how images are resized; pass processor= too")
    resize = _resize(getattr(processor, "image_processor", processor))

    def resized(size: tuple[int, int]) -> Frame:
        height, width = resize(size[1], size[0])
        return Frame(name, size, (width, height))

    return resized


def _resize(images: Any) -> Callable[[int, int], tuple[int, int]]:
    """The (height, width) -> (height, width) of an image processor of the Qwen-VL family."""
    size = getattr(images, "size", None) or {}
    try:
        factor = int(images.patch_size) * int(images.merge_size)
        low = int(getattr(images, "min_pixels", None) or size["shortest_edge"])
        high = int(getattr(images, "max_pixels", None) or size["longest_edge"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{type(images).__name__} lacks {error}; expected patch_size, merge_size and limits of pixels "
            "(min_pixels, max_pixels or size), from which the resized size follows"
        ) from None
    return partial(smart_resize, factor=factor, min_pixels=low, max_pixels=high)
