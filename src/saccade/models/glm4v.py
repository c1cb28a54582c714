"""Adapter of GLM-4.1V and GLM-4.6V."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from saccade.models.adapter import ImageLimits
from saccade.models.qwen_vl import QwenVLAdapter

WRAPS = tuple(f"<|{side}_of_{kind}|>" for kind in ("image", "video") for side in ("begin", "end"))


_BOX = re.compile(r"<\|(?:begin|end)_of_box\|>")


class Glm4vAdapter(QwenVLAdapter):
    """Grids and positions as in Qwen2-VL; a strided convolution before the merger joins patches.

    `<|user|>`, which starts the next turn, also ends a reply. `<|observation|>` (the result of a tool) and
    `<|endoftext|>` end a sampled reply as well, and so does `</answer>` where the checkpoint's generation_config.json
    lists it, as in GLM-4.1V-Thinking; that tag stays in the reply's text.

    GLM frames its answers with `<|begin_of_box|>` and `<|end_of_box|>`; inside an answer block they are dropped from
    the text, because the block is a frame already.
    """

    placeholder = image_token = "<|image|>"
    end = "<|user|>"
    extra_stop_tokens = ("<|endoftext|>", "<|observation|>")
    reserved_tokens = ("<|image|>", "<|video|>", *WRAPS, "<|system|>", "<|assistant|>", "[gMASK]", "<sop>")
    projector = ("visual.downsample.", "visual.merger.")

    def image_settings(self, limits: ImageLimits) -> dict[str, Any]:
        """The processor counts the pixels of all copies of an image along the time axis."""
        return {"size": self.pixel_bounds(limits, self.config.vision_config.temporal_patch_size)}

    def decode(self, ids: Sequence[int]) -> str:
        text = super().decode(ids)
        head, tag, rest = text.partition("<answer>")
        return head + tag + _BOX.sub("", rest) if tag else text
