"""What a plan reads: the model's config.json, and how many visual tokens its processor makes from an image."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade.data.hub import FOR_A_PLAN
from saccade.geometry import smart_resize
from saccade.models.checkpoint_files import read_family, reading
from saccade.models.config import ModelConfig
from saccade.models.counting import MARKER, TokenCounter
from saccade.models.policy import base_path, load_adapter, resolve_path
from saccade.planning.flops import ModelShape

LIMITS = ("min_pixels", "max_pixels", "max_visual_tokens")
ASSUMED = (1024, 1024)
"""Width and height of an image when neither the caller nor a processor's file gives one."""


def read_config(path: str) -> tuple[Any, Path | None]:
    """The model's configuration and, where there is one, its directory. The ValueError explains what to do without
    network."""
    try:
        found = base_path(resolve_path(path))
        config = read_family(found)
    except ValueError as error:
        raise ValueError(f"{error}; {FOR_A_PLAN}") from error
    if getattr(config, "vision_config", None) is None:
        raise ValueError(
            f"model.path {path!r}: got a {config.model_type!r} model without vision_config; expected a vision-language "
            f"model; {FOR_A_PLAN}"
        )
    directory = Path(found)
    return config, directory if directory.is_dir() else None


def read_shape(config: Any) -> ModelShape:
    """The model's shape. ValueError for a model that transformers cannot build."""
    with reading(config.name_or_path, "config.json"):
        return ModelShape.from_config(config)


def visual_tokens(
    config: Any, directory: Path | None, size: tuple[int, int] | None, model: ModelConfig | None = None
) -> tuple[int, str]:
    """(tokens of one image, their origin in words); `size` is (width, height) in pixels.

    Families that resize to a multiple of patches follow the image's size; the others cut it into tiles of one size, of
    which one is counted. With limits in the recipe's `model` section, its own processor counts, where its files are
    there.
    """
    with reading(config.name_or_path, "config.json or preprocessor_config.json"):
        return _visual_tokens(config, directory, size, model)


def _visual_tokens(
    config: Any, directory: Path | None, size: tuple[int, int] | None, model: ModelConfig | None
) -> tuple[int, str]:
    limits = {} if model is None else {name: getattr(model, name) for name in LIMITS if getattr(model, name)}
    if model is not None and limits and directory is not None and (directory / "tokenizer_config.json").is_file():
        return _counted(model, size, _words(limits))
    vision = config.vision_config
    merge = getattr(vision, "spatial_merge_size", None)
    if merge is None:
        per_token = ModelShape.from_config(config).patches_per_token
        side, patch = (_one(getattr(vision, name, None)) for name in ("image_size", "patch_size"))
        if side is None or patch is None:
            raise ValueError(
                f"model family {config.model_type!r}: its vision_config has no image_size and patch_size to count "
                "visual tokens by; give --visual-tokens N"
            )
        return math.ceil((side / patch) ** 2 / per_token), f"one tile of {side} x {side} pixels per image"
    least, most = _bounds(directory)
    least, most = limits.get("min_pixels", least), limits.get("max_pixels", most)
    if (most_tokens := limits.get("max_visual_tokens")) is not None:
        area = most_tokens * int(vision.patch_size * merge) ** 2
        most = min(most, area) if most else area
    width, height = size or (_square(most) if most else ASSUMED)
    factor = int(vision.patch_size * merge)
    bounds = {name: value for name, value in (("min_pixels", least), ("max_pixels", most)) if value}
    unbounded = {} if most else {"max_pixels": max(width * height, factor**2) * 2}
    rows, columns = smart_resize(height, width, factor, **(unbounded | bounds))
    largest = f"within {_words(limits)}" if limits else "the processor's maximum"
    origin = "as given" if size else largest if most else "assumed"
    resized = "" if (columns, rows) == (width, height) else f", resized to {columns} x {rows}"
    return rows * columns // factor**2, f"images of {width} x {height} pixels ({origin}{resized})"


def _counted(model: ModelConfig, size: tuple[int, int] | None, limits: str) -> tuple[int, str]:
    """As `visual_tokens`, by the family's own image processor."""
    width, height = size or (_square(model.max_pixels) if model.max_pixels else ASSUMED)
    counted = TokenCounter(load_adapter(model)).prompt(MARKER, [(width, height)])
    resized = "{} x {}".format(*counted.frames[0].size_input)
    return counted.images[0], f"images of {width} x {height} pixels, resized to {resized} within {limits}"


def _words(limits: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in limits.items())


def _bounds(directory: Path | None) -> tuple[int | None, int | None]:
    """(smallest, largest) area in pixels that the image processor makes, if its file is there."""
    file = None if directory is None else directory / "preprocessor_config.json"
    if file is None or not file.is_file():
        return None, None
    data = json.loads(file.read_text(encoding="utf-8"))
    size = data.get("size") or {}
    return (
        data.get("min_pixels") or size.get("shortest_edge"),
        data.get("max_pixels") or size.get("longest_edge"),
    )


def _square(area: int) -> tuple[int, int]:
    side = math.isqrt(area)
    return side, side


def _one(value: Any) -> int | None:
    """A side that some families give as a pair."""
    return int(value[0]) if isinstance(value, list | tuple) else value
