"""Saccade's rewards in TRL's GRPOTrainer: python examples/rewards_in_trl.py MODEL DATA.jsonl

Rows have `prompt`, `image` (a path) and `solution`, the gold box as xyxy pixels of the original image. Needs TRL 1.16
(pip install trl torchvision); MODEL is a directory or a name on the Hugging Face hub.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from datasets import Image, load_dataset  # type: ignore[import-not-found]  # in the extra bench
from transformers import AutoProcessor
from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]  # in the extra bench

from saccade.bridges.trl import reward_funcs


def train(model: str, data: str, steps: int = 100, processor: object = None, out: str = "runs/trl") -> GRPOTrainer:
    """GRPO for `steps` steps on rows of a JSON Lines file; the trainer, with its log."""
    processor = processor or AutoProcessor.from_pretrained(model)
    rows = load_dataset("json", data_files=data, split="train")
    rows = rows.map(lambda row: {"image": str(Path(data).parent / row["image"])}).cast_column("image", Image())
    rows = rows.map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})
    config = GRPOConfig(
        output_dir=out,
        max_steps=steps,
        num_generations=4,
        per_device_train_batch_size=4,
        max_completion_length=64,
        reward_weights=[0.9, 0.1],
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = GRPOTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=processor,
        reward_funcs=reward_funcs("rec_iou", "format", processor=processor),
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2])
