"""The optimizer, its learning-rate schedule, and the guard before each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from saccade.training.config import OptimConfig, OptimKind
from saccade.training.master_weights import MasterAdamW, Masters


def _constant(progress: float) -> float:
    return 1.0


def _linear(progress: float) -> float:
    return 1.0 - progress


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


DECAYS: dict[str, Callable[[float], float]] = {"constant": _constant, "linear": _linear, "cosine": _cosine}
"""Share of the way from the final to the peak rate, as a function of progress after warm-up, both 0..1."""


NO_PARTS: Mapping[str, str] = {}


class TrainingStopped(ValueError):
    """Continuing the run would make no sense; the message says why and what to try."""


def build_optimizer(
    parameters: Sequence[tuple[str, nn.Parameter]], config: OptimConfig, parts: Mapping[str, str] = NO_PARTS
) -> Masters:
    """AdamW over the trainable parameters, in their order, with float32 masters where they are bfloat16. `parts` has
    the part of each name, which may have a learning rate of its own.

    ValueError when there are none, or none of a part that has its own learning rate; as `check_optimizer`.
    """
    if not parameters:
        raise ValueError("no parameter trains; set model.train to some of vision, projector, language")
    if idle := set(config.lr_of) - {parts.get(name) for name, _ in parameters}:
        raise ValueError(f"optim.lr_of: {', '.join(sorted(idle))} does not train; remove it, or let the part train")
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    scales = {part: lr / config.lr for part, lr in config.lr_of.items()}
    for is_vector in (False, True):
        for name, parameter in parameters:
            if (parameter.ndim < 2) == is_vector:
                scale = scales.get(parts.get(name, ""), 1.0)
                decay = 0.0 if is_vector else config.weight_decay
                groups.setdefault((scale, decay, is_vector), []).append(parameter)
    options = [{"params": g, "scale": scale, "weight_decay": decay} for (scale, decay, _), g in groups.items()]
    device = parameters[0][1].device
    check_optimizer(config.kind, device)
    if config.kind != "adamw":
        return _adamw_8bit(config.kind)(options, lr=config.lr, betas=config.betas, eps=config.eps)
    # one kernel and no temporaries; on a CPU its numbers differ in the last digit from those of earlier runs
    fused = {"fused": True} if device.type == "cuda" else {}
    return MasterAdamW(options, lr=config.lr, betas=config.betas, eps=config.eps, **fused)


def check_optimizer(kind: OptimKind, device: torch.device) -> None:
    """ValueError, before long work, for an optimizer whose package or device is not there."""
    if kind == "adamw":
        return
    if find_spec("bitsandbytes") is None:
        raise ValueError(f"optim.kind {kind!r} needs bitsandbytes: pip install 'saccade[lora]', or use kind adamw")
    if kind == "paged_adamw_8bit" and device.type != "cuda":
        raise ValueError(
            f"optim.kind {kind!r} moves its state between GPU and host memory, but the model is on {device.type}; use "
            "adamw_8bit"
        )


def _adamw_8bit(kind: OptimKind) -> type[Masters]:
    """AdamW whose moments have 8 bits, in blocks with a scale each (Dettmers et al. 2022, arXiv:2110.02861); those of
    fewer than 4,096 values keep 32."""
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

    base = {"adamw_8bit": AdamW8bit, "paged_adamw_8bit": PagedAdamW8bit}[kind]
    return type(f"Master{base.__name__}", (Masters, base), {})


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
    before_step: Callable[[], None] | None = None
    """Called just before the weights move."""

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
            group["lr"] = lr * group.get("scale", 1.0)
        if self.before_step is not None:
            self.before_step()
        self.optimizer.step()
        self.zero_grad()
        return norm, True
