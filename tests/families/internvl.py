"""InternVL: tiles with a thumbnail, pixel shuffle, a Qwen2 language model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from families._checkpoint import without_video, write_model
from families._tokenizer import tokenizer

SIDE, PER_TILE = 56, 4
"""Pixels of a tile's side, and its visual tokens: (56 / 14 / 2) squared."""


def write(directory: str | Path, seed: int = 0, **of_text: Any) -> Path:
    """`of_text` are further settings of the language model."""
    tokens = tokenizer(("<img>", "</img>", "<IMG_CONTEXT>", "<video>"), image_markup="<IMG_CONTEXT>\n")
    config = InternVLConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokens),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            **of_text,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": [14, 14],
            "image_size": [SIDE, SIDE],
        },
        image_token_id=tokens.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=PER_TILE,
        downsample_ratio=0.5,
    )
    images = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, min_patches=1, max_patches=4)
    return write_model(directory, seed, InternVLForConditionalGeneration, config, tokens, images)


def processor(directory: str | Path) -> Any:
    made = without_video(InternVLProcessor, directory, "<IMG_CONTEXT>", "<video>", image_seq_length=PER_TILE)
    made.start_image_token, made.end_image_token = "<img>", "</img>"
    made.multimodal_pattern = re.compile("(?P<image><IMG_CONTEXT>)|(?P<video><video>)")
    return made
