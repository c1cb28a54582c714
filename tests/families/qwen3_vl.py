"""Qwen3-VL: deepstack features for the first layers of the language model, interleaved M-RoPE, patches of 16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from families._checkpoint import without_video, write_model
from families._tokenizer import tokenizer
from families.qwen2_5_vl import text_config, token_ids

ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 2, 2], "mrope_interleaved": True}


def vision_config(**options: Any) -> dict[str, Any]:
    """The tower that Qwen3-VL and Qwen3.5 share."""
    return {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 48,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 64,
        **options,
    }


def image_processor() -> Qwen2VLImageProcessorPil:
    size = {"shortest_edge": 64 * 64, "longest_edge": 224 * 224}
    half = [0.5, 0.5, 0.5]
    return Qwen2VLImageProcessorPil(size=size, patch_size=16, image_mean=half, image_std=half)


def write(directory: str | Path, seed: int = 0) -> Path:
    tokens = tokenizer()
    config = Qwen3VLConfig(
        text_config=text_config(tokens, num_hidden_layers=3, head_dim=12, rope_parameters=ROPE),
        vision_config=vision_config(deepstack_visual_indexes=[0, 1]),
        tie_word_embeddings=True,
        **token_ids(tokens),
    )
    return write_model(directory, seed, Qwen3VLForConditionalGeneration, config, tokens, image_processor())


def processor(directory: str | Path) -> Any:
    return without_video(Qwen3VLProcessor, directory, "<|image_pad|>", "<|video_pad|>")
