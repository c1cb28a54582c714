"""Adapter of GLM-4.1V and GLM-4.6V."""

from __future__ import annotations

from saccade.models.qwen_vl import QwenVLAdapter

WRAPS = tuple(f"<|{side}_of_{kind}|>" for kind in ("image", "video") for side in ("begin", "end"))


class Glm4vAdapter(QwenVLAdapter):
    """Grids and positions as in Qwen2-VL; a strided convolution before the merger joins patches.

    `<|user|>`, which starts the next turn, also ends a reply. `<|observation|>` (the result of a tool) and
    `<|endoftext|>` end a sampled reply as well. GLM-4.1V-Thinking also stops at `</answer>`; here that tag is part of
    the answer, and generation continues to the end of the turn.

    The chat template is used unchanged. Where it opens the assistant's turn with `<think>`, the tag belongs to the
    prompt and replies start inside the thinking block; a reply that opens the tag again contains it twice.
    """

    placeholder = image_token = "<|image|>"
    end = "<|user|>"
    extra_stop_tokens = ("<|endoftext|>", "<|observation|>")
    reserved_tokens = ("<|image|>", "<|video|>", *WRAPS, "<|system|>", "<|assistant|>", "[gMASK]", "<sop>")
    projector = ("visual.downsample.", "visual.merger.")
