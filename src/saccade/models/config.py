"""The recipe sections that configure the model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

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

    @model_validator(mode="after")
    def _pixels_in_order(self) -> ModelConfig:
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels is {self.min_pixels} and max_pixels {self.max_pixels}; expected at most that")
        return self


class FeatureCacheConfig(Config):
    """Size of the cache for features of a frozen vision tower; off by default (features are shared within a step)."""

    memory_mb: int = Field(default=0, ge=0)
    """MiB in CPU memory."""
    disk_mb: int = Field(default=0, ge=0)
    """MiB in the run's directory, for features that no longer fit into memory."""

    @property
    def wanted(self) -> bool:
        return self.memory_mb > 0 or self.disk_mb > 0
