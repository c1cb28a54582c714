"""Idefics3: rows and columns of tiles and the whole image, pixel shuffle, a Llama language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from families._checkpoint import write_model
from families._tokenizer import tokenizer

SIDE, PER_TILE = 64, 4
"""Pixels of a tile's side, and its visual tokens: (64 / 16 / 2) squared."""
SPECIALS = (
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)
CHAT_TEMPLATE = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{% if m['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}{{ '<image>' }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
SIZES = {"size": {"longest_edge": 3 * SIDE}, "max_image_size": {"longest_edge": SIDE}}


def tile_tokenizer() -> Any:
    made = tokenizer(SPECIALS, chat_template=CHAT_TEMPLATE)
    made.eos_token = "<end_of_utterance>"
    return made


def tile_config(kind: Any, tokens: Any) -> Any:
    return kind(
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokens),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "pad_token_id": tokens.pad_token_id,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 16,
            "image_size": SIDE,
        },
        scale_factor=2,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        pad_token_id=tokens.pad_token_id,
        tie_word_embeddings=True,
    )


def write(directory: str | Path, seed: int = 0) -> Path:
    tokens = tile_tokenizer()
    config = tile_config(Idefics3Config, tokens)
    images = Idefics3ImageProcessorPil(**SIZES)
    written = write_model(directory, seed, Idefics3ForConditionalGeneration, config, tokens, images)
    processor(written).save_pretrained(written)
    return written


def processor(directory: str | Path) -> Any:
    tokens = AutoTokenizer.from_pretrained(directory)
    return Idefics3Processor(
        AutoImageProcessor.from_pretrained(directory), tokens, PER_TILE, chat_template=tokens.chat_template
    )
