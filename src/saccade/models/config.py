"""The sections of a recipe that describe the model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from saccade.config import Config

Part = Literal["vision", "projector", "language"]
SharedPrefix = Literal["auto", "on", "off"]


class ModelConfig(Config):
    """Which model, in which precision, and what of it trains."""

    path: str
    """A Hugging Face checkpoint directory, a hub name, or 'base' for the tiny base that ships with Saccade."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    device: str = "auto"
    """'auto' takes a GPU when there is one; 'cpu' or 'cuda' insist."""
    train: tuple[Part, ...] = ("language",)
    """Parts whose parameters move; the others are frozen."""
    gradient_checkpointing: bool = False
    """Keep only the layers' inputs for the backward pass and compute the rest again: less memory, a third more time."""
    fused_layers: bool = True
    """RMS norms and gated feed-forward blocks by functions that keep less for the backward pass and give the same
    numbers; false leaves the family's own code alone."""


class FeatureCacheConfig(Config):
    """How much to keep of the features of a frozen tower; nothing by default (features are shared within a step)."""

    memory_mb: int = Field(default=0, ge=0)
    """In the CPU's memory."""
    disk_mb: int = Field(default=0, ge=0)
    """In the run's directory, for what no longer fits into memory."""

    @property
    def wanted(self) -> bool:
        return self.memory_mb > 0 or self.disk_mb > 0
