"""Qwen3.5: three of four language layers are gated delta nets, the fourth gated attention with partial M-RoPE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3VLProcessor

from families._checkpoint import without_video, write_model
from families._tokenizer import tokenizer
from families.qwen2_5_vl import text_config, token_ids
from families.qwen3_vl import image_processor, vision_config
from saccade.base.tokenizer import CHAT_TEMPLATE

ROPE = {
    "rope_type": "default",
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 0.5,
    "mrope_section": [2, 1, 1],
    "mrope_interleaved": True,
}


def write(directory: str | Path, seed: int = 0) -> Path:
    """The chat template opens the assistant's turn with `<think>`, as that of the real checkpoints does."""
    template = CHAT_TEMPLATE.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    tokens = tokenizer(chat_template=template)
    config = Qwen3_5Config(
        text_config=text_config(
            tokens,
            num_hidden_layers=4,
            intermediate_size=64,
            head_dim=16,
            rope_parameters=ROPE,
            linear_conv_kernel_dim=4,
            linear_key_head_dim=16,
            linear_value_head_dim=16,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
        ),
        vision_config=vision_config(depth=2),
        tie_word_embeddings=True,
        **token_ids(tokens),
    )
    return write_model(directory, seed, Qwen3_5ForConditionalGeneration, config, tokens, image_processor())


def processor(directory: str | Path) -> Any:
    return without_video(Qwen3VLProcessor, directory, "<|image_pad|>", "<|video_pad|>")
