"""Your own model family: one class and one line. python examples/own_family.py

A family is an adapter: which tokens an image becomes, which coordinates boxes have, where its parts are. This one is
Qwen2.5-VL fine-tuned to write boxes as thousandths of the image instead of pixels. In the package it is a file in
`models/` and a line in `ADAPTERS`; docs/models.md lists what an adapter must say. `saccade verify MODEL` then proves
the fast paths for it.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from saccade import Sample, load_policy, open_engine
from saccade.models.config import ModelConfig
from saccade.models.families import ADAPTERS
from saccade.models.qwen_vl import QwenVLAdapter
from saccade.rollout.config import Sampling
from saccade.rollout.prompts import prepare
from saccade.types import Frame


class ThousandthsAdapter(QwenVLAdapter):
    """Qwen2.5-VL with boxes from 0 to 1000 of each side, and one more token that ends a reply."""

    extra_stop_tokens = ("<|endoftext|>", "<|im_end|>")

    def __init__(self, tokenizer: Any, image_processor: Any, config: Any) -> None:
        super().__init__(tokenizer, image_processor, config, "thousand")


def main(path: str = "base") -> Frame:
    """The frame of a reply of the model at `path` under this adapter."""
    ADAPTERS["qwen2_5_vl"] = ThousandthsAdapter  # the key is `model_type` of the checkpoint's config.json
    policy = load_policy(ModelConfig(path=path, device="cpu", train=()))
    sample = Sample("1", (Image.new("RGB", (200, 100)),), "Where is the cup?", (10, 10, 60, 60), "refer")
    with torch.no_grad():
        ((reply,),) = open_engine(policy).generate(
            [prepare(policy.adapter, sample)], Sampling(max_new_tokens=8), 1, seeds=[0]
        )
    return reply.frames[0]


if __name__ == "__main__":
    print(main())
