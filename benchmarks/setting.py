"""What is trained on: the L tiny model, images of a given number of visual tokens, questions, and the reward.

Everything is a function of the setting, so all arms of a program get the same bytes.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image, ImageDraw
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from saccade.base.tiny import MIN_PIXELS, write_checkpoint
from saccade.models.adapter import EncodedPrompt
from saccade.models.config import ModelConfig
from saccade.models.policy import Policy, load_adapter, load_policy
from saccade.rollout.prompts import prepare
from saccade.tasks import TASKS
from saccade.types import Sample

TASK = "count"
SIDE = 28
"""Pixels of one visual token's side: patches of 14, merged 2 x 2."""
MAX_SIDE = 32
"""The processor's cap is raised to 32 x 32 visual tokens, in all arms."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Visual tokens x new tokens x completions of a prompt, and how many prompts a step has."""

    visual_tokens: int
    new_tokens: int
    group_size: int
    prompts: int = 1

    def __post_init__(self) -> None:
        side = round(self.visual_tokens**0.5)
        if side * side != self.visual_tokens or not 2 <= side <= MAX_SIDE:
            raise ValueError(
                f"got {self.visual_tokens} visual tokens; expected a square number from 4 to {MAX_SIDE**2}"
            )

    @property
    def name(self) -> str:
        return f"{self.visual_tokens} visual x {self.new_tokens} new x G={self.group_size}, {self.prompts} prompts"

    @property
    def side_px(self) -> int:
        return SIDE * round(self.visual_tokens**0.5)


@dataclass(frozen=True, slots=True)
class FittedSetting(Setting):
    """For a model whose processor decides how many visual tokens an image becomes, whatever its size."""

    def __post_init__(self) -> None:
        pass

    @property
    def side_px(self) -> int:
        return 448


def visual_tokens(directory: Path) -> int:
    """Of an image of a `FittedSetting`."""
    adapter = load_adapter(str(directory))
    sample = samples(FittedSetting(0, 1, 1))[0]
    return int(torch.isin(prepare(adapter, sample).encoded.ids_P, torch.tensor(adapter.image_ids)).sum())


def checkpoint(directory: Path, size: str = "L", seed: int = 0) -> Path:
    """The tiny model, with an image processor that leaves images of up to 1,024 visual tokens as they are."""
    write_checkpoint(directory, size, seed)
    side = SIDE * MAX_SIDE
    Qwen2VLImageProcessorPil(min_pixels=MIN_PIXELS, max_pixels=side * side).save_pretrained(directory)
    return directory


def policy_of(
    directory: Path, parts: Literal["all", "language"] = "all", checkpointing: bool = False, rank: int = 0
) -> Policy:
    """The policy as a run would load it. `all` trains tower and projector too, which is what TRL does unasked; `rank`
    is that of LoRA on all linear layers of the language model, which then alone trains."""
    train = ("vision", "projector", "language") if parts == "all" else ("language",)
    trained = {"lora": {"rank": rank, "alpha": 2 * rank, "targets": ("language",)}} if rank else {"train": train}
    return load_policy(
        ModelConfig.model_validate(
            {"path": str(directory), "device": "cpu", "gradient_checkpointing": checkpointing} | trained
        )
    )


def image(side_px: int, index: int) -> bytes:
    """A PNG of discs on white; every index another one."""
    colours = ((220, 30, 30), (20, 160, 40), (30, 40, 220), (230, 200, 20))
    picture = Image.new("RGB", (side_px, side_px), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    for k in range(3 + index % 3):
        radius = side_px // (8 + k)
        x, y = (37 * (index + 1) * (k + 1)) % side_px, (53 * (index + 2) * (k + 1)) % side_px
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colours[(index + k) % 4])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def samples(setting: Setting) -> list[Sample]:
    """One question per prompt, each about an image of its own."""
    return [
        Sample(f"p{i}", (image(setting.side_px, i),), f"How many {word} are there?", str(3 + i % 3), TASK)
        for i, word in ((i, ("circles", "shapes", "objects", "discs")[i % 4]) for i in range(setting.prompts))
    ]


def question(sample: Sample) -> str:
    """The user's turn as text without the image's marker, which other trainers put in themselves."""
    text = TASKS[sample.task].prompt(sample)
    if not text.startswith("<image>") or text.count("<image>") != 1:
        raise ValueError(f"sample {sample.id!r}: expected one image at the beginning of the prompt, got {text[:80]!r}")
    return text.removeprefix("<image>")


def reward(token_ids: list[int] | tuple[int, ...]) -> float:
    """A number in [0, 1) from a reply's tokens. Siblings practically never share it, so every completion has an
    advantage and is trained on: a group of equal rewards would spare one arm the work."""
    digest = hashlib.sha256(",".join(map(str, token_ids)).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def check_visual_tokens(prompts: list[EncodedPrompt], image_id: int, setting: Setting) -> None:
    """ValueError when the processor has resized an image: the setting's name would lie."""
    for prompt in prompts:
        count = int((prompt.ids_P == image_id).sum())
        if count != setting.visual_tokens:
            raise ValueError(f"got {count} visual tokens, expected {setting.visual_tokens}; the processor resized")
