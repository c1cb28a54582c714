"""GLM-4.6V: tower and language model of GLM-4.1V under a config and an image processor of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Glm46VConfig, Glm46VForConditionalGeneration, Glm46VProcessor
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil

from families._checkpoint import without_video, write_model
from families.glm4v import CHAT_TEMPLATE, SIZE, glm_config, glm_tokenizer, video_marks


def write(directory: str | Path, seed: int = 0) -> Path:
    """The assistant's turn opens with `<think>`, as in a thinking template."""
    tokens = glm_tokenizer(CHAT_TEMPLATE.replace("<|assistant|>\n", "<|assistant|>\n<think>"))
    config, images = glm_config(Glm46VConfig, tokens), Glm46VImageProcessorPil(size=SIZE)
    return write_model(directory, seed, Glm46VForConditionalGeneration, config, tokens, images)


def processor(directory: str | Path) -> Any:
    return without_video(Glm46VProcessor, directory, "<|image|>", "<|video|>", **video_marks())
