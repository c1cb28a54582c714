"""Tiny Qwen2.5-VL models from a config: for tests (S), the shipped base (M), for benchmarks (L),
and one in between (SM).

They are ordinary Hugging Face models, saved as ordinary checkpoint directories. Only the initialization is custom, so
that they learn something within minutes on a CPU:

- keys start near the queries and outputs near the transposed values ("mimetic" initialization, Trockman and Kolter,
  arXiv:2305.09828), so that matching and copying heads exist from step 0;
- the projector's last layer starts small, so that the content of visual tokens comes only from perception training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from saccade.base.tokenizer import build_tokenizer


@dataclass(frozen=True, slots=True)
class TinySize:
    """Widths and depths of one size; `head` is the number of attention heads of both encoder and decoder."""

    hidden: int
    layers: int
    inter: int
    vision_hidden: int
    vision_layers: int
    vision_inter: int
    head: int = 4
    kv_head: int = 4


SIZES: dict[str, TinySize] = {
    "S": TinySize(64, 2, 128, 64, 2, 128, kv_head=2),
    "SM": TinySize(96, 3, 256, 96, 2, 192),
    "M": TinySize(128, 4, 384, 128, 3, 256),
    "L": TinySize(384, 6, 1024, 256, 4, 768, kv_head=2),
}
MIN_PIXELS, MAX_PIXELS = 56 * 56, 448 * 448


def tiny_config(tokenizer: PreTrainedTokenizerFast, size: TinySize) -> Qwen2_5_VLConfig:
    token = tokenizer.get_vocab()
    half = size.hidden // size.head // 2
    side = 3 * half // 8
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": size.hidden,
            "intermediate_size": size.inter,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.head,
            "num_key_value_heads": size.kv_head,
            "max_position_embeddings": 8192,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [half - 2 * side, side, side],
            },
            "bos_token_id": token["<|endoftext|>"],
            "eos_token_id": token["<|im_end|>"],
            "pad_token_id": token["<|endoftext|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": size.vision_layers,
            "hidden_size": size.vision_hidden,
            "intermediate_size": size.vision_inter,
            "num_heads": size.head,
            "out_hidden_size": size.hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": list(range(1, size.vision_layers)),
        },
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=True,
    )


@torch.no_grad()
def _initialize(model: Any, std: float) -> None:
    language = model.model.language_model
    torch.nn.init.normal_(language.embed_tokens.weight, std=std)
    for layer in language.layers:
        attention = layer.self_attn
        q, k, v, o = (getattr(attention, f"{name}_proj").weight for name in "qkvo")
        for weight in (q, v, layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight, layer.mlp.down_proj.weight):
            torch.nn.init.normal_(weight, std=std)
        per_key = q.shape[0] // k.shape[0]
        heads = q.view(k.shape[0] // attention.head_dim, per_key, attention.head_dim, -1)
        k.copy_(0.7 * heads[:, 0].reshape_as(k) + 0.7 * std * torch.randn_like(k))
        values = v.view(-1, 1, attention.head_dim, v.shape[1]).expand(-1, per_key, -1, -1).reshape(-1, v.shape[1])
        o.copy_(0.7 * values.T + 0.7 * std * torch.randn_like(o))
    projector = model.model.visual.merger.mlp[2]
    projector.weight.mul_(0.1)
    projector.bias.zero_()


def build(size: str = "S", seed: int = 0) -> tuple[Qwen2_5_VLForConditionalGeneration, PreTrainedTokenizerFast]:
    """A randomly initialized tiny model and its tokenizer; the same weights for the same (size, seed)."""
    if size not in SIZES:
        raise ValueError(f"unknown tiny model size {size!r}; expected one of {', '.join(SIZES)}")
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(tiny_config(tokenizer, SIZES[size]))
        _initialize(model, std=SIZES[size].hidden ** -0.5)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def write_checkpoint(directory: str | Path, size: str = "S", seed: int = 0) -> Path:
    """Write a tiny model as an ordinary Hugging Face directory and return its path."""
    model, tokenizer = build(size, seed)
    directory = Path(directory)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    Qwen2VLImageProcessorPil(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS).save_pretrained(directory)
    return directory
