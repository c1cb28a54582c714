"""TRL's GRPOTrainer beside the whole steps of `benchmarks.gpu`, on the weights that our policy had before it trained.

The arms run one after the other, never side by side: a card that holds a model with its optimizer need not hold two.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.setting import Setting
from saccade.models.policy import Policy

LR = 1e-7
"""That of our arm: no step is to change what the next one samples from."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trl", action="store_true", help="whole steps of TRL's GRPOTrainer, too")
    parser.add_argument("--trl-rows", type=int, help="completions in a micro-batch of TRL (default: one prompt's)")


def refusal(args: argparse.Namespace, settings: Sequence[Setting]) -> str | None:
    """Why TRL's arm cannot run, with the way out; None when it can. Asked before anything is measured."""
    missing = [name for name in ("trl", "datasets") if find_spec(name) is None]
    if missing:
        return (
            f"--trl: not installed: {', '.join(missing)}; it comes with: pip install -e '.[bench]' -c constraints.txt. "
            "Leave --trl out to measure ours alone"
        )
    if args.device != "cpu" and torch.cuda.device_count() > 1:
        return (
            f"--trl: got {torch.cuda.device_count()} visible GPUs, expected one (TRL's trainer takes all that it "
            "sees); set CUDA_VISIBLE_DEVICES=0"
        )
    sizes = {setting.prompts * setting.group_size for setting in settings}
    if args.trl_rows is not None and (args.trl_rows < 1 or any(size % args.trl_rows for size in sizes)):
        return f"--trl-rows: got {args.trl_rows}; expected a divisor of {', '.join(map(str, sorted(sizes)))}"
    return None


@dataclass(eq=False)
class Kept:
    """What TRL needs of our policy, on disk, so that the policy itself can be dropped."""

    folder: tempfile.TemporaryDirectory[str]
    """Removed with this object."""
    moving: frozenset[str]
    """Names of the parameters that train."""
    banned: tuple[int, ...]
    """Tokens that our engine never samples. TRL forbids only one of them unasked."""


def keep(policy: Policy) -> Kept:
    folder = tempfile.TemporaryDirectory(prefix="saccade-gpu-")
    policy.save(folder.name)
    return Kept(folder, frozenset(name for name, _ in policy.trainable()), policy.adapter.banned_ids)


def stand_beside(rows: list[dict[str, Any]], kept: Kept, settings: Sequence[Setting], args: argparse.Namespace) -> None:
    """Appends a row of TRL's for each setting, and writes `ratio` into our row of the same whole step: TRL's seconds /
    ours. Our model and optimizer must be unreachable by now."""
    ours = {one["setting"]: one for one in rows if one["what"].startswith("whole step")}
    for setting in settings:
        seconds, peak = timed(kept, setting, args)
        own = ours[setting.name]
        own["ratio"] = seconds / own["seconds"]
        rows.append(
            {
                "setting": setting.name,
                "what": own["what"],
                "arm": arm_name(args),
                "seconds": seconds,
                "peak_gib": peak,
                "tokens_per_s": setting.prompts * setting.group_size * setting.new_tokens / seconds,
            }
        )


def arm_name(args: argparse.Namespace) -> str:
    """With what is not equal: torch's AdamW keeps its state in the weights' own precision."""
    if args.optimizer == "adamw" and args.dtype != "float32":
        return f"TRL, AdamW state in {args.dtype} (ours: float32 masters)"
    return "TRL"


def timed(kept: Kept, setting: Setting, args: argparse.Namespace) -> tuple[float, float]:
    """(median wall seconds, peak GiB above the level before) of a step. Not a number where the card's memory does not
    hold it."""
    release()
    result = math.nan, math.nan
    with contextlib.suppress(torch.cuda.OutOfMemoryError):
        result = _timed(kept, setting, args)
    release()  # only now, after the error, is what it refers to garbage
    return result


def _timed(kept: Kept, setting: Setting, args: argparse.Namespace) -> tuple[float, float]:
    from benchmarks.peer_trl import trl_step

    watch = Watch(torch.device(args.device))
    changes: dict[str, Any] = {
        "use_cpu": watch.device.type == "cpu",
        "learning_rate": LR,
        "generation_kwargs": {"min_new_tokens": setting.new_tokens, "suppress_tokens": list(kept.banned)},
    }
    if args.optimizer == "sgd":
        changes["optim"] = "sgd"
    arm = trl_step(
        Path(kept.folder.name),
        setting,
        args.repeats + 1,
        args.checkpointing,
        args.trl_rows,
        kept.moving,
        getattr(torch, args.dtype),
        **changes,
    )
    arm.train(watch)
    return statistics.median(watch.seconds), statistics.median(watch.peaks) if watch.peaks else math.nan


def release() -> None:
    """Trainers are full of cycles, so their memory is free only when garbage was collected."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(eq=False)
class Watch:
    """Called after each step of the trainer. The first is not measured: with it the optimizer's state comes to be."""

    device: torch.device
    seconds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    """GiB above the level before the step; none on a CPU."""
    _start: float = 0.0
    _level: int = 0

    def __call__(self, step: int) -> None:
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize()
        if step > 1:
            self.seconds.append(time.perf_counter() - self._start)
            if cuda:
                self.peaks.append((torch.cuda.max_memory_allocated() - self._level) / 2**30)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            self._level = torch.cuda.memory_allocated()
        self._start = time.perf_counter()
