"""Adapter of Qwen3.5."""

from __future__ import annotations

from saccade.models.adapter import Sharing
from saccade.models.qwen_vl import QwenVLAdapter


class Qwen35Adapter(QwenVLAdapter):
    """Most language layers are linear attention (gated delta nets), whose state after the prompt is forked for each
    branch; so prompts are shared through the family's own cache.

    The template of the real checkpoints opens the assistant's turn with `<think>`. It is passed through: the tag is
    part of the prompt, replies begin inside of the thought, and a reply that opens the tag itself has it twice. A run
    whose rewards want the whole `<think>..</think><answer>..</answer>` in the reply needs a checkpoint directory whose
    `chat_template.jinja` ends the prompt with the bare opening of the turn.
    """

    sharing: Sharing = "two_phase"
