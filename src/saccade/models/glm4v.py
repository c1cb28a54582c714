"""Adapter of GLM-4.1V and GLM-4.6V."""

from __future__ import annotations

from saccade.models.qwen_vl import QwenVLAdapter

WRAPS = tuple(f"<|{side}_of_{kind}|>" for kind in ("image", "video") for side in ("begin", "end"))


class Glm4vAdapter(QwenVLAdapter):
    """Grids and positions are those of Qwen2-VL; a strided convolution before the merger joins patches.

    A turn ends where the next one begins: a finished reply is followed by `<|user|>`, which therefore ends it here too.
    `<|observation|>` (the result of a tool) and `<|endoftext|>` end a sampled reply as well. GLM-4.1V-Thinking also
    stops at `</answer>`; that is a part of the answer here, and goes on to the end of the turn.

    The chat template is passed through. Where it opens the assistant's turn with `<think>`, the tag belongs to the
    prompt, replies begin inside of the thought, and a reply that opens the tag itself has it twice.
    """

    placeholder = image_token = "<|image|>"
    end = "<|user|>"
    extra_stop_tokens = ("<|endoftext|>", "<|observation|>")
    reserved_tokens = ("<|image|>", "<|video|>", *WRAPS, "<|system|>", "<|assistant|>", "[gMASK]", "<sop>")
    projector = ("visual.downsample.", "visual.merger.")
