"""Adapter of Qwen3.5."""

from __future__ import annotations

from saccade.models.adapter import Sharing
from saccade.models.qwen_vl import QwenVLAdapter


class Qwen35Adapter(QwenVLAdapter):
    """Most language layers are linear attention (gated delta nets), whose state after the prompt is copied for each
    branch, so prompts are shared through the family's own cache.

    The template of the published checkpoints opens the assistant's turn with `<think>` and is used unchanged: the tag
    is part of the prompt and replies start inside the thinking block; a reply that opens the tag again contains it
    twice. A run whose rewards need the whole `<think>..</think><answer>..</answer>` in the reply needs a checkpoint
    directory whose `chat_template.jinja` ends the prompt without `<think>`.
    """

    sharing: Sharing = "two_phase"
