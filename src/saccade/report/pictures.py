"""Images of a page: as data URLs, each once, with boxes drawn over them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from saccade.data.images import ImageError, image_size, load_image
from saccade.evaluation.boxes import reply_boxes
from saccade.report.charts import overlay
from saccade.runs.files import JsonRow, RunFiles
from saccade.types import Box, Frame

Size = tuple[int, int]
MOST_PIXELS = 89_000_000
"""Larger images are not shown: a run of others may hold a bomb."""
SIDE_PX = 448
"""Longest side of an embedded image; larger ones are shrunk so that the page stays small."""


def data_url(path: Path) -> tuple[str, Size] | None:
    """(data URL of the image, at most SIDE_PX a side; its own size in pixels); None when it does not open."""
    try:
        image_size(path, MOST_PIXELS)
        small = load_image(path)
    except ImageError:
        return None
    size = small.size
    small.thumbnail((SIDE_PX, SIDE_PX))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    if buffer.tell() > 60_000:  # a photograph: PNG would be several times larger
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=85)
    mime = "png" if buffer.getvalue().startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}", size


def picture(path: Path | None, boxes: Sequence[tuple[Sequence[float], str]] = ()) -> Markup | None:
    """The image as a data URL with its boxes (original pixels); None without one, and when it does not open."""
    found = data_url(path) if path else None
    return overlay(*found, boxes) if found else None


@dataclass
class Pictures:
    """The images that the page's script shows, by key."""

    found: dict[str, JsonRow] = field(default_factory=dict)
    """Key -> {src, w, h}: the data URL, and the size in pixels that boxes refer to."""
    bytes: int = 0

    def keys(self, run: RunFiles, shas: Sequence[str] | None) -> list[str]:
        """Keys of the saved images of these hashes, in order; [] unless all of them were saved and open."""
        paths = run.images(list(shas or ()))
        found = [self.add(path) for path in paths]
        return [key for key in found if key] if all(found) else []

    def add(self, path: Path) -> str:
        """The key of an image; '' when it does not open."""
        if path.stem not in self.found:
            opened = data_url(path)
            if opened is None:
                return ""
            source, (width, height) = opened
            self.found[path.stem] = {"src": source, "w": width, "h": height}
            self.bytes += len(source)
        return path.stem


def boxes_of(row: JsonRow, image: int) -> tuple[Box, ...]:
    """Boxes of a rollout's answer in original pixels; sizes are lists with an entry per image."""
    sizes = row.get("size_original") or ()
    if not row.get("frame") or image >= len(sizes):
        return ()
    return reply_boxes(row["text"], Frame(row["frame"], tuple(sizes[image]), tuple(row["size_input"][image])))
