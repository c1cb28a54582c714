"""Checkpoints: `checkpoints/step-000100/` is an ordinary Hugging Face directory, or with LoRA one of adapters that peft
reads, plus the trainer's state.

A checkpoint appears by one rename, so a directory of that name is always complete. `last` and `best` are links to such
directories. Loading restores everything that the next step depends on: a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saccade.models.policy import Policy
from saccade.runs.disk import require_space
from saccade.training.master_weights import needs_master
from saccade.training.optim import GuardedOptimizer

TRAINER_FILE = "trainer.pt"
STATE_FILE = "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint directory and its JSON state."""

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.state["step"])


def folder(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def save(run_dir: Path, policy: Policy, optimizer: GuardedOptimizer, state: dict[str, Any]) -> Path:
    """Writes `step-<step>` beside its place, renames it, and points `last` at it. `state` is JSON data with a step."""
    fresh = begin(run_dir, state["step"])
    policy.save(fresh)
    trainer = {
        "optimizer": optimizer.optimizer.state_dict(),
        "parameters": [name for name, _ in policy.trainable()],
        "rng": rng_state(),
    }
    torch.save(trainer, fresh / TRAINER_FILE)
    return publish(fresh, state | counters(policy, optimizer))


def begin(run_dir: Path, step: int) -> Path:
    """The path of an unfinished checkpoint; what a killed run left there is removed."""
    root = folder(run_dir)
    root.mkdir(parents=True, exist_ok=True)
    fresh = root / f".step-{step:06d}.partial"
    shutil.rmtree(fresh, ignore_errors=True)
    return fresh


def counters(policy: Policy, optimizer: GuardedOptimizer) -> dict[str, int]:
    """What of policy and optimizer is kept in the state file."""
    return {"nonfinite_in_row": optimizer.nonfinite_in_row, "version": policy.version}


def publish(fresh: Path, state: dict[str, Any]) -> Path:
    """Writes the state file, forces everything to disk, renames, and points `last` at it."""
    root, final = fresh.parent, fresh.with_name(f"step-{state['step']:06d}")
    (fresh / STATE_FILE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    for file in fresh.rglob("*"):
        _flush(file)
    shutil.rmtree(final, ignore_errors=True)
    fresh.rename(final)
    _flush(root)
    link(root, "last", final.name)
    return final


def latest(run_dir: Path) -> Checkpoint | None:
    """The complete checkpoint of the highest step, or None."""
    found = _in_order(run_dir)
    return Checkpoint(found[-1], json.loads((found[-1] / STATE_FILE).read_text(encoding="utf-8"))) if found else None


def restore(checkpoint: Checkpoint, policy: Policy, optimizer: GuardedOptimizer) -> None:
    """Restores optimizer, random generators and counters. The policy must have been loaded from the checkpoint.

    ValueError when the trained parameters differ from the checkpoint's.
    """
    trainer = torch.load(checkpoint.path / TRAINER_FILE, map_location="cpu", weights_only=True)
    names = [name for name, _ in policy.trainable()]
    if names != trainer["parameters"]:
        differ = sorted(set(names) ^ set(trainer["parameters"]))
        raise ValueError(
            f"{checkpoint.path}: the trained parameters differ from the checkpoint's: {', '.join(differ[:3])}; "
            "restore model.train or model.lora"
        )
    if policy.shards is not None or "optimizer" not in trainer:
        from saccade.training import sharded_checkpoint  # needs torch.distributed

        sharded_checkpoint.restore(checkpoint.path, policy, optimizer, trainer.get("optimizer"))
    else:
        optimizer.optimizer.load_state_dict(trainer["optimizer"])
    optimizer.nonfinite_in_row = int(checkpoint.state["nonfinite_in_row"])
    policy.version = int(checkpoint.state["version"])
    set_rng_state(trainer["rng"])


def prune(run_dir: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints and the one that `best` points at."""
    root = folder(run_dir)
    best = (root / "best").resolve().name if (root / "best").exists() else None
    for path in _in_order(run_dir)[:-keep]:
        if path.name != best:
            shutil.rmtree(path)


def relink(run_dir: Path, last: int, best: int | None) -> None:
    """Repairs the links after a kill between a checkpoint's rename and its links."""
    for name, step in (("last", last), ("best", best)):
        if step:  # 0 is the starting model, which has no checkpoint
            link(folder(run_dir), name, f"step-{step:06d}")


def link(root: Path, name: str, target: str) -> None:
    """Points `root/name` at `root/target` by one rename."""
    fresh = root / f".{name}.partial"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(root / name)


def rng_state() -> dict[str, Any]:
    """States of the generators that training could draw from, as plain data and tensors."""
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": [version, list(internal), gauss]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """The inverse of `rng_state`."""
    torch.set_rng_state(state["torch"].cpu())
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])


def check_disk_space(run_dir: Path, policy: Policy, keep: int) -> None:
    """ValueError when the checkpoints that the run may hold at once (weights and optimizer state) do not fit."""
    saved = policy.model.parameters() if policy.adapters is None else [p for _, p in policy.trainable()]
    weights = sum(p.numel() * p.element_size() for p in saved)
    # both Adam moments; for weights of less than 32 bits they and the master weights are float32
    state = sum(p.numel() * (12 if needs_master(p) else 2 * p.element_size()) for _, p in policy.trainable())
    needed = (weights + state) * (keep + 2)  # those kept, the best, and the one being written
    require_space(run_dir, needed, f"{keep + 2} checkpoints", "lower checkpoint.keep, ")


def _in_order(run_dir: Path) -> list[Path]:
    return sorted(folder(run_dir).glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def _flush(path: Path) -> None:
    """Forces a file or directory to disk, so that a rename never precedes its content."""
    if path.is_dir() and path.name != "checkpoints":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
