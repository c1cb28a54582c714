"""Qwen2.5-VL: windows in the tower, M-RoPE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from families._checkpoint import without_video, write_model
from families._tokenizer import tokenizer


def token_ids(tokens: Any) -> dict[str, int]:
    """The config's ids of Qwen's image tokens."""
    names = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    names |= {f"vision_{side}_token_id": f"vision_{side}" for side in ("start", "end")}
    return {name: tokens.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()}


def text_config(tokens: Any, **options: Any) -> dict[str, Any]:
    """A tiny Qwen language model: hidden 48, 4 heads over 2 key/value heads of size 12."""
    return {
        "vocab_size": len(tokens),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 2, 2]},
        "pad_token_id": tokens.pad_token_id,
        "eos_token_id": tokens.eos_token_id,
        **options,
    }


def write(directory: str | Path, seed: int = 0) -> Path:
    tokens = tokenizer()
    config = Qwen2_5_VLConfig(
        text_config=text_config(tokens),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 48,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        tie_word_embeddings=True,
        **token_ids(tokens),
    )
    images = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=224 * 224)
    return write_model(directory, seed, Qwen2_5_VLForConditionalGeneration, config, tokens, images)


def processor(directory: str | Path) -> Any:
    return without_video(Qwen2_5_VLProcessor, directory, "<|image_pad|>", "<|video_pad|>")
