"""The tiny families' tokenizer: our own small one with a family's further special tokens and its words for an image."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from saccade.base.tokenizer import CHAT_TEMPLATE, SPECIALS, build_tokenizer

VOCABULARY = 640
"""Tokens before the family's own: every byte and the commonest words."""

IMAGE_MARKUP = "<|vision_start|><|image_pad|><|vision_end|>"
"""What our own chat template writes for an image."""


def tokenizer(
    extra_tokens: Sequence[str] = (), image_markup: str = IMAGE_MARKUP, chat_template: str = CHAT_TEMPLATE
) -> PreTrainedTokenizerFast:
    """`image_markup` is what the chat template writes for an image, in place of Qwen's."""
    made = build_tokenizer(VOCABULARY)
    known = [token for token in SPECIALS if token not in (made.eos_token, made.pad_token)]
    made.add_special_tokens({"additional_special_tokens": [*known, *extra_tokens]})
    made.chat_template = chat_template.replace(IMAGE_MARKUP, image_markup)
    return made
