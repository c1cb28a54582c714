"""Frozen linear layers of the language model in 4 bits, by bitsandbytes (QLoRA, Dettmers et al. 2023,
arXiv:2305.14314: nf4, with the scales of blocks quantized too). It works on a CPU, slowly.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from saccade.models.adapter import Adapter


def check_quantizer() -> None:
    """ValueError when bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            "model.quantize needs the package bitsandbytes, which is not installed; pip install 'saccade[lora]', or "
            "remove model.quantize"
        )


def loading_options(family: Any, adapter: Adapter, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Further arguments of `from_pretrained` that quantize the language model's linear layers but the head."""
    with torch.device("meta"):
        empty = AutoModelForImageTextToText.from_config(family)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept_modules(empty, adapter),
    )
    return {"quantization_config": quantization, "device_map": {"": device}}


def keep_differentiable(model: Any) -> None:
    """On a CPU with bfloat16 instructions a 4-bit layer in evaluation mode, as ours always are, would convert its
    weight at the first call to a format that has no backward pass and computes in bfloat16; this prevents it."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def kept_modules(model: Any, adapter: Adapter) -> list[str]:
    """Full names of the modules that are not quantized: the head, and the outermost ones without a parameter of the
    language model. (A short name such as 'visual' would match nothing and leave the tower quantized.)"""
    language = {id(parameter) for _, parameter in adapter.parts(model)["language"]}
    head = model.get_output_embeddings()
    return [*_without(model, "", language), *(name for name, module in model.named_modules() if module is head)]


def _without(module: nn.Module, name: str, language: set[int]) -> Iterator[str]:
    parameters = {id(parameter) for parameter in module.parameters()}
    if parameters and not parameters & language:
        yield name
    elif parameters:
        for child, inner in module.named_children():
            yield from _without(inner, f"{name}.{child}" if name else child, language)


def in_float32(model: Any) -> Any:
    """A copy that computes in float32; 4-bit weights stay what they are."""
    wide: Any = nn.Module.float(copy.deepcopy(model))  # transformers' own `float` refuses quantized models
    for module in wide.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.float32
    return wide


def elements(parameter: torch.Tensor) -> int:
    """Number of weights of a parameter; one in 4 bits holds two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def is_quantized(model: Any) -> bool:
    return bool(getattr(model, "is_loaded_in_4bit", False))
