"""Gemma 3: sliding and full layers, images seen both ways, a beginning-of-text token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    PreTrainedTokenizerFast,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from families._checkpoint import write_model
from families._tokenizer import tokenizer

SIDE, PER_IMAGE, WINDOW = 56, 4, 12
TURNS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
NAMED = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' }}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def gemma_tokenizer(named: dict[str, str], further: tuple[str, ...], chat_template: str) -> Any:
    """With a beginning-of-text token that the tokenizer adds by itself, and `named` tokens as attributes."""
    core = tokenizer((*TURNS, *further, *named.values())).backend_tokenizer
    begin = ("<bos>", core.token_to_id("<bos>"))
    core.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[begin])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens=named,
    )
    made.chat_template = chat_template
    return made


def write(directory: str | Path, seed: int = 0) -> Path:
    tokens = gemma_tokenizer(NAMED, (), CHAT_TEMPLATE)
    config = Gemma3Config(
        text_config={
            "vocab_size": len(tokens),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 4096,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "query_pre_attn_scalar": 16,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 14,
            "image_size": SIDE,
            "vision_use_head": False,
        },
        mm_tokens_per_image=PER_IMAGE,
        image_token_index=tokens.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokens.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokens.convert_tokens_to_ids("<end_of_image>"),
    )
    images = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    written = write_model(directory, seed, Gemma3ForConditionalGeneration, config, tokens, images)
    processor(written).save_pretrained(written)
    return written


def processor(directory: str | Path) -> Any:
    tokens, images = AutoTokenizer.from_pretrained(directory), AutoImageProcessor.from_pretrained(directory)
    return Gemma3Processor(images, tokens, chat_template=tokens.chat_template, image_seq_length=PER_IMAGE)
