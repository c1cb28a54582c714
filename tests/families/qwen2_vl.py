"""Qwen2-VL: LayerNorm tower with whole-image attention, M-RoPE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from families._checkpoint import without_video, write_model
from families._tokenizer import tokenizer
from families.qwen2_5_vl import text_config, token_ids


def write(directory: str | Path, seed: int = 0) -> Path:
    tokens = tokenizer()
    config = Qwen2VLConfig(
        text_config=text_config(tokens),
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 48,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        tie_word_embeddings=True,
        **token_ids(tokens),
    )
    images = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=224 * 224)
    return write_model(directory, seed, Qwen2VLForConditionalGeneration, config, tokens, images)


def processor(directory: str | Path) -> Any:
    return without_video(Qwen2VLProcessor, directory, "<|image_pad|>", "<|video_pad|>")
