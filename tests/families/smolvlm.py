"""SmolVLM: Idefics3 under another name, with a model class of its own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from families._checkpoint import without_video, write_model
from families.idefics3 import PER_TILE, SIZES, tile_config, tile_tokenizer


def write(directory: str | Path, seed: int = 0) -> Path:
    tokens = tile_tokenizer()
    config = tile_config(SmolVLMConfig, tokens)
    return write_model(
        directory, seed, SmolVLMForConditionalGeneration, config, tokens, SmolVLMImageProcessorPil(**SIZES)
    )


def processor(directory: str | Path) -> Any:
    made = without_video(SmolVLMProcessor, directory, "<image>", "<video>", image_seq_len=PER_TILE)
    made.fake_image_token, made.global_image_token = "<fake_token_around_image>", "<global-img>"
    made.video_processor = SimpleNamespace(num_frames=None, fps=None)  # asked for, then unused
    return made
