"""The peer: TRL's GRPOTrainer on the same weights, images, questions, reward and lengths."""

from __future__ import annotations

import io
import json
import logging
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from peft import LoraConfig, PeftModel
from PIL import Image
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PrinterCallback,
    Qwen2_5_VLProcessor,
    SmolVLMProcessor,
    TrainerCallback,
)
from transformers.processing_utils import ProcessorMixin
from trl import GRPOConfig, GRPOTrainer

from benchmarks.setting import Setting, question, reward, samples
from saccade.types import Sample

LR = 1e-6


class ImageTextProcessor(Qwen2_5_VLProcessor):
    """The family's processor without its video part, which needs torchvision.

    transformers reads the parts of a processor from the parameters of its constructor, so they are written out.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


class TileTextProcessor(SmolVLMProcessor):
    """SmolVLM's processor without its video part."""

    apply_chat_template = ProcessorMixin.apply_chat_template  # SmolVLM's own asks the video part

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = "<image>", "<video>"
        self.fake_image_token, self.global_image_token = "<fake_token_around_image>", "<global-img>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.image_seq_len = 0
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def processor_of(directory: Path) -> ImageTextProcessor | TileTextProcessor:
    """ValueError for a family of neither kind."""
    tokenizer, images = AutoTokenizer.from_pretrained(directory), AutoImageProcessor.from_pretrained(directory)
    family = AutoConfig.from_pretrained(directory).model_type
    if family == "qwen2_5_vl":
        return ImageTextProcessor(images, tokenizer, tokenizer.chat_template)
    if family != "smolvlm":
        raise ValueError(f"{directory}: got the family {family!r}; TRL's arm knows qwen2_5_vl and smolvlm")
    processor = TileTextProcessor(images, tokenizer, tokenizer.chat_template)
    processor.image_seq_len = json.loads((directory / "processor_config.json").read_text())["image_seq_len"]
    return processor


def dataset_of(data: list[Sample]) -> Dataset:
    """Columns `prompt` (a conversation) and `image`, which is what GRPOTrainer asks for."""
    pictures = [Image.open(io.BytesIO(sample.images[0])) for sample in data]  # type: ignore[arg-type]  # PNG bytes
    rows = {"prompt": [[{"role": "user", "content": question(sample)}] for sample in data], "image": pictures}
    return Dataset.from_dict(rows).cast_column("image", ImageFeature())


def rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [reward(one) for one in completion_ids]


class AfterStep(TrainerCallback):
    """Calls `then` between two steps of the trainer: the place where the other arms take their turn."""

    def __init__(self, then: Callable[[int], None]) -> None:
        self.then = then

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.then(state.global_step)


@dataclass(eq=False)
class TrlStep:
    """One arm with its own model and optimizer."""

    trainer: GRPOTrainer
    setting: Setting

    @property
    def model(self) -> Any:
        model: Any = self.trainer.model
        return model.get_base_model() if isinstance(model, PeftModel) else model

    def train(self, after_step: Callable[[int], None]) -> None:
        """All steps of the trainer's own loop; `after_step(k)` runs after the k-th optimizer step, from 1."""
        self.trainer.add_callback(AfterStep(after_step))
        self.trainer.train()
        lengths = self.trainer._metrics["train"]["completions/mean_length"]
        if any(length != self.setting.new_tokens for length in lengths):
            raise ValueError(f"TRL's replies have {lengths} tokens on average; expected {self.setting.new_tokens}")


def trl_step(
    directory: Path,
    setting: Setting,
    steps: int,
    checkpointing: bool,
    rows: int | None = None,
    train: Collection[str] | None = None,
    dtype: torch.dtype = torch.float32,
    rank: int = 0,
    **changes: Any,
) -> TrlStep:
    """GRPOTrainer at its defaults but for lengths, learning rate and records.

    `rows` completions to a micro-batch, by default all of one prompt's; `train` names the parameters that move, by
    default all, or with LoRA of `rank` its adapters; the weights are held in `dtype`, and bfloat16 comes with TRL's
    autocast, which is its default; `changes` replace entries of its configuration: without `use_cpu=False` it runs on
    the CPU.
    """
    logging.getLogger("trl").setLevel(logging.ERROR)
    rows = rows or setting.group_size
    completions = setting.prompts * setting.group_size
    if completions % rows:
        raise ValueError(f"got micro-batches of {rows} completions; expected a divisor of {completions}")
    options = {
        "output_dir": str(directory / "trl"),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": completions // rows,
        "num_generations": setting.group_size,
        "max_completion_length": setting.new_tokens,
        "generation_kwargs": {"min_new_tokens": setting.new_tokens},
        "gradient_checkpointing": checkpointing,
        "max_steps": steps,
        "learning_rate": LR,
        "use_cpu": True,
        "bf16": dtype is torch.bfloat16,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "shuffle_dataset": False,
        "seed": 0,
    }
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=dtype)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(train is None or name in train)
    layers = sorted({name.split(".lora_")[0] for name in train or ()})
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, lora_dropout=0.0) if rank else None
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=rewards,
        args=GRPOConfig(**(options | changes)),
        train_dataset=dataset_of(samples(setting)),
        processing_class=processor_of(directory),
        peft_config=adapters,
    )
    trainer.remove_callback(PrinterCallback)
    return TrlStep(trainer, setting)


@dataclass(frozen=True, slots=True)
class TrlBatch:
    """Rollouts of TRL with its gradient of one step on them."""

    prompts: list[list[int]]
    """Token ids, one list per completion (TRL repeats a prompt)."""
    completions: list[list[int]]
    advantages: list[float]
    loss: float
    gradients: dict[str, Tensor]


def trl_gradient(arm: TrlStep, lengths_seed: int | None = None) -> TrlBatch:
    """TRL's own rollouts, loss and gradient, by the trainer's own methods. With `lengths_seed` the completions are cut
    to lengths between 1 and all, so that masks and averages over lengths have something to do."""
    trainer, model = arm.trainer, arm.model
    rows = [row for row in trainer.train_dataset for _ in range(arm.setting.group_size)]
    model.train()
    inputs = trainer._generate_and_score_completions(rows)
    if lengths_seed is not None:
        pick = random.Random(lengths_seed)
        for mask in inputs["completion_mask"]:
            mask[pick.randint(1, len(mask)) :] = 0
        pad = trainer.processing_class.tokenizer.pad_token_id
        inputs["completion_ids"] = inputs["completion_ids"].masked_fill(inputs["completion_mask"] == 0, pad)
        inputs["num_items_in_batch"] = inputs["completion_mask"].sum()
    trainer.current_gradient_accumulation_steps = 1  # set by the training loop, which is not running here
    model.zero_grad()
    loss = trainer.compute_loss(model, inputs)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return TrlBatch(
        _kept(inputs["prompt_ids"], inputs["prompt_mask"]),
        _kept(inputs["completion_ids"], inputs["completion_mask"]),
        inputs["advantages"].tolist(),
        float(loss.detach()),
        gradients,
    )


def _kept(ids_BT: Tensor, mask_BT: Tensor) -> list[list[int]]:
    return [ids[mask.bool()].tolist() for ids, mask in zip(ids_BT, mask_BT, strict=True)]
