"""The table of model families: one line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saccade.models.adapter import Adapter
from saccade.models.qwen_vl import QwenVLAdapter

ADAPTERS: dict[str, Callable[[Any, Any, Any], Adapter]] = {
    "qwen2_vl": lambda tokenizer, images, config: QwenVLAdapter(tokenizer, images, config, "thousand"),
    "qwen2_5_vl": lambda tokenizer, images, config: QwenVLAdapter(tokenizer, images, config, "pixels_resized"),
}
"""`config.model_type`, never the name of a directory -> (tokenizer, image processor, config) -> adapter."""
