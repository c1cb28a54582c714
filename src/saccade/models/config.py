"""The recipe sections that configure the model."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from saccade.config import Config

Part = Literal["vision", "projector", "language"]
SharedPrefix = Literal["auto", "on", "off"]
AttnImplementation = Literal["auto", "sdpa", "eager", "flash_attention_2"]


class LoraConfig(Config):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): a linear layer's weight W becomes W + scale x B A, where A
    has `rank` rows and B `rank` columns; only A and B train."""

    rank: int = Field(ge=1)
    alpha: float = Field(gt=0.0, allow_inf_nan=False)
    """Numerator of the scale."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of an adapter's inputs that are set to 0 in training; for SFT only."""
    targets: tuple[str, ...] = ("language",)
    """Parts, whose linear layers are adapted (the head never is), or regular expressions that match whole names of
    linear layers, such as '.*language_model.*[qv]_proj'."""
    rslora: bool = False
    """The scale is alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732) instead of alpha / rank."""

    @field_validator("targets", mode="before")
    @classmethod
    def _one_target(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("targets")
    @classmethod
    def _patterns_compile(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("got no target; expected some of vision, projector, language, or a regular expression")
        for target in value:
            try:
                re.compile(target)
            except re.error as error:
                raise ValueError(f"got {target!r}, which is no regular expression ({error})") from None
        return value

    @property
    def parts(self) -> frozenset[str] | None:
        """The parts that are adapted; None when a regular expression decides."""
        return frozenset(self.targets) if set(self.targets) <= set(get_args(Part)) else None


class ModelConfig(Config):
    """The model, its precision, and which parts train."""

    path: str
    """A Hugging Face checkpoint directory, a hub name, or 'base' for the tiny base that ships with Saccade. A directory
    of adapters (a LoRA run's checkpoint) is loaded onto its base and merged."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    device: str = "auto"
    """'auto' uses a GPU if one is available; 'cpu' and 'cuda' are strict."""
    train: tuple[Part, ...] = ("language",)
    """Trainable parts; the others are frozen. Empty with `lora`, where only adapters train."""
    lora: LoraConfig | None = None
    """Train low-rank adapters in place of the weights; a checkpoint then holds only these."""
    quantize: Literal["nf4"] | None = None
    """Keep the language model's frozen linear layers in 4 bits (QLoRA, arXiv:2305.14314); tower, projector, embeddings
    and head stay in `dtype`."""
    attn_implementation: AttnImplementation = "auto"
    """Attention of the vision tower, and of language layers outside of packed rows. auto: sdpa, with all windows of a
    tower that has some in one call; the others: transformers' own code of that name, which loops over windows but with
    flash_attention_2."""
    min_pixels: int | None = Field(default=None, ge=1)
    """Smaller images are enlarged to this many pixels, where the family can; null leaves the checkpoint's own limit."""
    max_pixels: int | None = Field(default=None, ge=1)
    """Larger images are shrunk to this many pixels (or to as many tiles of the family as these make); null leaves the
    checkpoint's own limit. A saved checkpoint has the limits in its processor's file."""
    max_visual_tokens: int | None = Field(default=None, ge=1)
    """The same in visual tokens of one image."""
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Options of the checkpoint's chat template, such as {enable_thinking: false}."""
    gradient_checkpointing: bool = False
    """Save only the layers' inputs for the backward pass and recompute the rest: less memory, a third more time."""
    fused_layers: bool = True
    """Replace RMS norms and gated feed-forward blocks with functions that save fewer activations and give the same
    numbers; false keeps the family's own code."""

    @model_validator(mode="before")
    @classmethod
    def _adapters_alone(cls, data: Any) -> Any:
        """With `lora` nothing else trains, unless `train` was given, which is then refused."""
        return {"train": (), **data} if isinstance(data, dict) and data.get("lora") is not None else data

    @model_validator(mode="after")
    def _keys_fit(self) -> ModelConfig:
        if self.lora is not None and self.train:
            raise ValueError(
                f"train: got {', '.join(self.train)} beside lora; with lora only adapters train and are saved. "
                "Name the parts in lora.targets and set train to [], or remove lora"
            )
        if self.attn_implementation == "flash_attention_2" and (self.dtype != "bfloat16" or self.device == "cpu"):
            raise ValueError(
                f"attn_implementation: flash_attention_2 needs dtype bfloat16 and a GPU, got {self.dtype} and device "
                f"{self.device}; use auto"
            )
        if self.quantize is not None and self.dtype == "float64":
            raise ValueError("quantize: 4-bit layers compute in float32 or bfloat16; set dtype to one of them")
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels is {self.min_pixels} and max_pixels {self.max_pixels}; expected at most that")
        return self

    @property
    def trained_parts(self) -> frozenset[str] | None:
        """Parts that train, fully or by adapters; None when a regular expression of `lora.targets` decides."""
        return frozenset(self.train) if self.lora is None else self.lora.parts

    def check_trains(self) -> None:
        """ValueError for a model that cannot train."""
        if self.quantize is not None and self.lora is None:
            raise ValueError("model.quantize: 4-bit weights cannot train; add model.lora, or remove quantize")


class ShardConfig(Config):
    """How several processes share a model (FSDP2); with one process nothing is sharded."""

    replicate: int = Field(default=1, ge=1)
    """Copies of the sharded model, such as one for each node: gathering weights then stays inside a copy, and each
    process holds a larger shard."""
    cpu_offload: bool = False
    """Keep shards, gradients and optimizer state in CPU memory between uses: less GPU memory, slower."""


class FeatureCacheConfig(Config):
    """Size of the cache for features of a frozen vision tower; off by default (features are shared within a step)."""

    memory_mb: int = Field(default=0, ge=0)
    """MiB in CPU memory."""
    disk_mb: int = Field(default=0, ge=0)
    """MiB in the run's directory, for features that no longer fit into memory."""

    @property
    def wanted(self) -> bool:
        return self.memory_mb > 0 or self.disk_mb > 0
