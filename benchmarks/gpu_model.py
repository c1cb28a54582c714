"""Models of published shapes with random weights, built on the device and never on disk."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks.setting import SIDE
from saccade.base.tiny import MIN_PIXELS, SIZES, tiny_config
from saccade.base.tokenizer import build_tokenizer
from saccade.models import attention, lora
from saccade.models.config import LoraConfig
from saccade.models.families import ADAPTERS
from saccade.models.fused import fuse
from saccade.models.policy import Policy, enable_checkpointing, freeze

SHAPES: dict[str, dict[str, Any]] = {
    "3b": {"hidden": 2048, "layers": 36, "heads": 16, "kv": 2, "inter": 11008, "vocab": 151936, "tied": True},
    "7b": {"hidden": 3584, "layers": 28, "heads": 28, "kv": 4, "inter": 18944, "vocab": 152064, "tied": False},
}
"""Language models of the published checkpoints; their towers are alike."""
PARTS = {"all": ("vision", "projector", "language"), "language": ("language",)}
LORA = LoraConfig(rank=64, alpha=128)
"""`model.lora` of the steps with adapters."""


def config_of(shape: str) -> Qwen2_5_VLConfig:
    """The published shape on our tokenizer, whose ids are the first of a vocabulary of the published size."""
    tokenizer = build_tokenizer()
    config = tiny_config(tokenizer, SIZES["L"])
    if shape == "tiny":
        return config
    one, content = SHAPES[shape], config.to_dict()
    content["text_config"] |= {
        "hidden_size": one["hidden"],
        "num_hidden_layers": one["layers"],
        "num_attention_heads": one["heads"],
        "num_key_value_heads": one["kv"],
        "intermediate_size": one["inter"],
        "vocab_size": one["vocab"],
        "tie_word_embeddings": one["tied"],
        "layer_types": None,
        "max_window_layers": one["layers"],
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    content["vision_config"] |= {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": one["hidden"],
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    content["tie_word_embeddings"] = one["tied"]
    return Qwen2_5_VLConfig.from_dict(content)


def policy_of(shape: str, device: torch.device, dtype: torch.dtype, args: argparse.Namespace) -> Policy:
    """Built on the device, never on disk."""
    config, tokenizer = config_of(shape), build_tokenizer()
    side = 32 * SIDE
    images = Qwen2VLImageProcessorPil(min_pixels=MIN_PIXELS, max_pixels=side * side)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    if args.checkpointing:
        enable_checkpointing(model)
    attention.install(model)
    policy = Policy(model.eval(), ADAPTERS["qwen2_5_vl"](tokenizer, images, model.config), (tokenizer, images))
    freeze(policy, () if args.lora else PARTS[args.parts])
    fuse(model)  # before adapters replace the linear layers that it recognizes
    if args.lora:
        policy.adapters = lora.attach(model, policy.parameters_by_part(), LORA, "random weights", seed=0)
    return policy
