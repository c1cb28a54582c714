"""What one GPU does in a step of a stage, in sizes: what the arithmetic of memory and operations reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from saccade.training.batching import repeated_cost, shared_cost
from saccade.training.config import OptimKind

Parts = dict[str, float]
ForwardKind = Literal["merged", "split", "plain"]
"""How log-probs are computed: packed with flash kernels, packed with plain sdpa, or a row per completion."""
BYTES = {"float32": 4, "bfloat16": 2, "float64": 8}


@dataclass(frozen=True, slots=True)
class Work:
    """What the GPU does in one step of a stage."""

    name: str
    groups: int
    """Prompts of the step."""
    group_size: int
    prompt_tokens: int
    """Text and visual tokens of a prompt."""
    images: tuple[int, ...]
    """Visual tokens of each image of a prompt."""
    completion_tokens: int
    budget: int
    """Tokens of a micro-batch."""
    vision_cost: int
    """What a prompt's images cost in training, in tokens; 0 with a frozen tower."""
    form: ForwardKind
    trained: tuple[str, ...]
    dtype: Literal["float32", "bfloat16", "float64"]
    checkpointing: bool
    fused: bool = True
    """Norms and gated blocks save fewer activations (`models.fused`)."""
    rollout: bool = True
    """False for SFT."""
    max_rows: int = 1
    """Completions that are decoded at once."""
    graphs: bool = True
    """On a GPU, decoding in memory at fixed addresses (`rollout.fixed_slots`)."""
    longest: int | None = None
    """Tokens of the longest reply, which then determines the space of all; None: `completion_tokens`."""
    reference: bool = False
    recompute_old: bool = False
    updates: int = 1
    steps: int | None = None
    """Steps of the stage, if they can be known."""
    adapters: Mapping[str, int] = field(default_factory=dict)
    """Elements of LoRA by part; then no weight trains and `trained` is empty."""
    optimizer: OptimKind = "adamw"
    kv_limit: float | None = None
    """Bytes that keys and values may take while completions are decoded; those that find no room wait."""
    keep_bytes: float = 0.0
    """Keys and values of at most this many bytes stay for the next step, with the recorded steps on a GPU."""
    adapter_width: Mapping[str, float] = field(default_factory=dict)
    """Bytes per token and layer that LoRA keeps by part: the narrow vectors, and dropped inputs."""
    quantized: bool = False
    """The language model's linear layers are in 4 bits."""
    ranks: int = 1
    """GPUs of the run; all sizes above are those of one of them."""
    shards: int = 1
    """GPUs that share one copy of the model."""
    offload: bool = False
    """Shards are in CPU memory."""
    cuda: bool = True
    """On a GPU the optimizer steps all parameters at once, which takes memory; on a CPU one after the other."""

    @property
    def bytes(self) -> int:
        return BYTES[self.dtype]

    @property
    def tower_trains(self) -> bool:
        return bool(self.moving & {"vision", "projector"})

    @property
    def shares_tower(self) -> bool:
        """The passes of a step share the output of a frozen tower, and the projector behind it trains; with several
        processes the update runs the tower itself."""
        return self.rollout and self.ranks == 1 and "projector" in self.moving and "vision" not in self.moving

    @property
    def moving(self) -> set[str]:
        """Parts with anything that trains."""
        return {*self.trained, *self.adapters}

    @property
    def visual(self) -> int:
        return sum(self.images)

    @property
    def packed(self) -> bool:
        return self.form != "plain"

    @property
    def row_completions(self) -> int:
        """Completions of one row: a group, or the piece of it that the budget allows (see `training.batching`)."""
        before = self.prompt_tokens + self.vision_cost
        if self.packed:
            most = (self.budget - before) // self.completion_tokens
        else:
            most = self.budget // (before + self.completion_tokens)
        return max(1, min(self.group_size, most))

    @property
    def rows(self) -> int:
        """Rows of the step; a group that is cut repeats its prompt."""
        return self.groups * math.ceil(self.group_size / self.row_completions)

    @property
    def micro_batches(self) -> int:
        cost = shared_cost if self.packed else repeated_cost
        one = cost(self.prompt_tokens + self.vision_cost, [self.completion_tokens] * self.row_completions)
        return math.ceil(self.rows / max(1, self.budget // one))

    @property
    def rows_at_once(self) -> int:
        """Of the largest micro-batch; they are balanced."""
        return math.ceil(self.rows / self.micro_batches)

    @property
    def tokens_at_once(self) -> int:
        """Tokens that the language model reads in one forward and backward pass."""
        if self.packed:
            return self.rows_at_once * (self.prompt_tokens + self.row_completions * self.completion_tokens)
        return self.rows_at_once * self.row_completions * (self.prompt_tokens + self.completion_tokens)

    @property
    def images_at_once(self) -> int:
        """Prompts whose images the tower sees in one such pass, repeats counted."""
        return self.rows_at_once * (1 if self.packed else self.row_completions)

    @property
    def decoded_at_once(self) -> int:
        return min(self.max_rows, self.groups * self.group_size)

    @property
    def prompts_in_flight(self) -> int:
        return min(self.groups, math.ceil(self.decoded_at_once / self.group_size))
