"""LLaVA-OneVision: tiles of a padded canvas, newline vectors, one tile each for several images, a Qwen2 model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from families._checkpoint import without_video, write_model
from families._tokenizer import tokenizer

SIDE, PER_TILE = 56, 16
"""Pixels of a tile's side, and its visual tokens: (56 / 14) squared."""
GRID = [[SIDE * rows, SIDE * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + c['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ASPECT = "anyres_max_4"
"""Beyond four tiles' worth of features a canvas is interpolated down."""


def write(directory: str | Path, seed: int = 0) -> Path:
    tokens = tokenizer(("<image>", "<video>"), chat_template=CHAT_TEMPLATE)
    config = LlavaOnevisionConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokens),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 14,
            "image_size": SIDE,
            "vision_use_head": False,
        },
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        video_token_index=tokens.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=GRID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=ASPECT,
    )
    images = LlavaOnevisionImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=GRID)
    return write_model(directory, seed, LlavaOnevisionForConditionalGeneration, config, tokens, images)


def processor(directory: str | Path) -> Any:
    made = without_video(LlavaOnevisionProcessor, directory, "<image>", "<video>", num_image_tokens=PER_TILE)
    made.vision_feature_select_strategy, made.vision_aspect_ratio = "full", ASPECT
    return made
