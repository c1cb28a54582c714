"""Writing a tiny random checkpoint, and a family's combined processor without the video part that needs torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoTokenizer

GAIN = 1.5
"""Standard deviation of a matrix in units of 1 / sqrt(inputs): enough for attention that is not flat."""


def write_model(directory: str | Path, seed: int, kind: Any, config: Any, tokenizer: Any, images: Any) -> Path:
    """An ordinary Hugging Face directory with random weights; the same weights for the same seed."""
    directory = Path(directory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
        sharpen(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    for part in (model, tokenizer, images):
        part.save_pretrained(directory)
    return directory


@torch.no_grad()
def sharpen(model: torch.nn.Module) -> None:
    """Give every matrix the standard deviation `GAIN` / sqrt(inputs), embeddings 1 / sqrt(width), biases a little."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            gain = 1.0 if id(parameter) in embeddings else GAIN
            torch.nn.init.normal_(parameter, std=gain * parameter[0].numel() ** -0.5)
        elif name.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        elif name.endswith(".A_log"):  # a delta net that remembers: the norm of one token's memory is a sign function
            parameter.uniform_(0.02, 0.3).log_()


def without_video(kind: Any, directory: str | Path, image_token: str, video_token: str, **attributes: Any) -> Any:
    """The processor of class `kind` as its constructor leaves it, less the video part."""
    processor = kind.__new__(kind)
    processor.tokenizer = tokenizer = AutoTokenizer.from_pretrained(directory)
    processor.image_processor = AutoImageProcessor.from_pretrained(directory)
    processor.chat_template = tokenizer.chat_template
    processor.video_processor = None
    processor.image_token, processor.video_token = image_token, video_token
    processor.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
    processor.video_token_id = tokenizer.convert_tokens_to_ids(video_token)
    for name, value in attributes.items():
        setattr(processor, name, value)
    return processor
