"""The optimizer, its learning-rate schedule, and the guard before each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from saccade.training.config import OptimConfig
from saccade.training.master_weights import MasterAdamW


def _constant(progress: float) -> float:
    return 1.0


def _linear(progress: float) -> float:
    return 1.0 - progress


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


DECAYS: dict[str, Callable[[float], float]] = {"constant": _constant, "linear": _linear, "cosine": _cosine}
"""Share of the way from the final to the peak rate, as a function of progress after warm-up, both 0..1."""


class TrainingStopped(ValueError):
    """Continuing the run would make no sense; the message says why and what to try."""


def build_optimizer(parameters: Sequence[tuple[str, nn.Parameter]], config: OptimConfig) -> MasterAdamW:
    """AdamW over the trainable parameters, in their order, with float32 masters where they are bfloat16.

    ValueError when there are none.
    """
    if not parameters:
        raise ValueError("no parameter trains; set model.train to some of vision, projector, language")
    matrices = [p for _, p in parameters if p.ndim >= 2]
    vectors = [p for _, p in parameters if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return MasterAdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, eps=config.eps)


def learning_rate(config: OptimConfig, step: int, num_steps: int) -> float:
    """The rate of step 1..num_steps: linear warm-up to lr, then the decay, which would reach lr x final_lr_ratio one
    step after the last (no step is spent at a rate of 0).
    """
    warmup = config.warmup(num_steps)
    if step <= warmup:
        return config.lr * step / warmup
    progress = (step - 1 - warmup) / max(1, num_steps - warmup)
    share = DECAYS[config.decay](min(1.0, progress))
    return config.lr * (config.final_lr_ratio + (1.0 - config.final_lr_ratio) * share)


@dataclass(eq=False)
class GuardedOptimizer:
    """Clips, steps, and refuses gradients that are not finite. `nonfinite_in_row` belongs to the checkpoint."""

    optimizer: torch.optim.Optimizer
    config: OptimConfig
    nonfinite_in_row: int = 0

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, lr: float, loss: float, keep: Callable[[], None] | None = None) -> tuple[float, bool]:
        """(gradient norm before clipping, stepped). Not finite: nothing moves, `keep` is called, and too many raise
        TrainingStopped.

        The loss is checked too: a clamp on the way turns a NaN into a gradient of 0, which looks harmless.
        """
        total = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        norm = float(total.full_tensor() if isinstance(total, DTensor) else total)  # shards: over all processes
        if not (math.isfinite(norm) and math.isfinite(loss)):
            self.zero_grad()
            if keep is not None:
                keep()
            self.nonfinite_in_row += 1
            if self.nonfinite_in_row >= self.config.max_nonfinite_in_row:
                raise TrainingStopped(
                    f"loss or gradient was not finite for {self.nonfinite_in_row} updates in a row; the weights are "
                    "those of the last finite one. Try a lower optim.lr, longer optim.warmup_steps, or dtype float32"
                )
            return norm, False
        self.nonfinite_in_row = 0
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.zero_grad()
        return norm, True
