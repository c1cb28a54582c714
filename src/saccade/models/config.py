"""The recipe sections that configure the model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from saccade.config import Config

Part = Literal["vision", "projector", "language"]
SharedPrefix = Literal["auto", "on", "off"]


class ModelConfig(Config):
    """The model, its precision, and which parts train."""

    path: str
    """A Hugging Face checkpoint directory, a hub name, or 'base' for the tiny base that ships with Saccade."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    device: str = "auto"
    """'auto' uses a GPU if one is available; 'cpu' and 'cuda' are strict."""
    train: tuple[Part, ...] = ("language",)
    """Trainable parts; the others are frozen."""
    gradient_checkpointing: bool = False
    """Save only the layers' inputs for the backward pass and recompute the rest: less memory, a third more time."""
    fused_layers: bool = True
    """Replace RMS norms and gated feed-forward blocks with functions that save fewer activations and give the same
    numbers; false keeps the family's own code."""


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
