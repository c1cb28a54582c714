"""The table of model families: one line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saccade.models.adapter import Adapter
from saccade.models.gemma3 import Gemma3Adapter
from saccade.models.gemma4 import Gemma4Adapter
from saccade.models.glm4v import Glm4vAdapter
from saccade.models.idefics3 import Idefics3Adapter
from saccade.models.internvl import InternVLAdapter
from saccade.models.llava_onevision import LlavaOnevisionAdapter
from saccade.models.minicpmv import MiniCPMVAdapter
from saccade.models.qwen3_5 import Qwen35Adapter
from saccade.models.qwen3_vl import Qwen3VLAdapter
from saccade.models.qwen_vl import QwenVLAdapter

ADAPTERS: dict[str, Callable[[Any, Any, Any], Adapter]] = {
    "qwen2_vl": lambda tokenizer, images, config: QwenVLAdapter(tokenizer, images, config, "thousand"),
    "qwen2_5_vl": lambda tokenizer, images, config: QwenVLAdapter(tokenizer, images, config, "pixels_resized"),
    "qwen3_vl": lambda tokenizer, images, config: Qwen3VLAdapter(tokenizer, images, config, "thousand"),
    "qwen3_5": lambda tokenizer, images, config: Qwen35Adapter(tokenizer, images, config, "thousand"),
    "glm4v": lambda tokenizer, images, config: Glm4vAdapter(tokenizer, images, config, "thousand"),
    "glm46v": lambda tokenizer, images, config: Glm4vAdapter(tokenizer, images, config, "thousand"),
    "internvl": lambda tokenizer, images, config: InternVLAdapter(tokenizer, images, config, "thousand"),
    "idefics3": lambda tokenizer, images, config: Idefics3Adapter(tokenizer, images, config, "unit"),
    "smolvlm": lambda tokenizer, images, config: Idefics3Adapter(tokenizer, images, config, "unit"),
    "llava_onevision": lambda tokenizer, images, config: LlavaOnevisionAdapter(tokenizer, images, config, "unit"),
    "gemma3": lambda tokenizer, images, config: Gemma3Adapter(tokenizer, images, config, "thousand"),
    "gemma4": lambda tokenizer, images, config: Gemma4Adapter(tokenizer, images, config, "thousand"),
    "minicpmv4_6": lambda tokenizer, images, config: MiniCPMVAdapter(tokenizer, images, config, "thousand"),
}
"""`config.model_type` (never a directory name) -> (tokenizer, image processor, config) -> adapter."""
