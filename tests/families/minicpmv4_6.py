"""MiniCPM-V 4.6: slices of their own aspect packed side by side, a Qwen3.5 language model of linear attention."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration, MiniCPMV4_6Processor
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

from families._checkpoint import without_video, write_model
from families._tokenizer import tokenizer

PATCH, SIDE = 4, 32
"""Pixels of a patch's side and of a slice's, whose 8 x 8 patches are merged to 2 x 2 visual tokens."""
MARKS = ("image_start", "image_end", "slice_start", "slice_end", "image_id_start", "image_id_end")
TOKENS = ("<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>")


def write(directory: str | Path, seed: int = 0) -> Path:
    tokens = tokenizer(TOKENS, image_markup="<|image_pad|>")
    config = MiniCPMV4_6Config(
        text_config={
            "model_type": "qwen3_5_text",
            "vocab_size": len(tokens),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 4096,
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": PATCH,
            "image_size": SIDE,
        },
        insert_layer_id=0,
        image_size=SIDE,
        image_token_id=tokens.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokens.convert_tokens_to_ids("<|video_pad|>"),
        tie_word_embeddings=True,
    )
    images = MiniCPMV4_6ImageProcessorPil(patch_size=PATCH, scale_resolution=SIDE, max_slice_nums=4)
    return write_model(directory, seed, MiniCPMV4_6ForConditionalGeneration, config, tokens, images)


def processor(directory: str | Path) -> Any:
    marks = {f"{name}_token": token for name, token in zip(MARKS, TOKENS, strict=True)}
    made = without_video(MiniCPMV4_6Processor, directory, "<|image_pad|>", "<|video_pad|>", **marks)
    made.slice_mode, made.default_use_image_id = made.image_processor.slice_mode, made.image_processor.use_image_id
    made.video_processor = SimpleNamespace()
    return made
