"""Checkpoints of several processes: each writes its shards (torch.distributed.checkpoint) while training continues, and
the directory appears by one rename when all have finished. Any number of processes can resume from one, also a single
one, which in turn writes ordinary checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor, distribute_tensor

from saccade.models.checkpoint_files import reading
from saccade.models.policy import Policy
from saccade.models.shard_files import ShardReader
from saccade.models.sharding import SHARDS, read_shards, weights
from saccade.training import checkpoint, generators
from saccade.training.master_weights import MASTERS, MasterAdamW
from saccade.training.optim import GuardedOptimizer
from saccade.training.ranks import Ranks


@dataclass(eq=False)
class ShardWriter:
    """Writes the checkpoints of a run, one at a time. All processes make the same calls."""

    ranks: Ranks
    group: Any = None
    """Processes of its own for writing: its messages must not mix with those of training."""
    _running: Any = None
    _publish: Callable[[], None] | None = None

    def start(
        self,
        run_dir: Path,
        policy: Policy,
        optimizer: GuardedOptimizer,
        state: dict[str, Any],
        then: Callable[[Path], None],
        also: Callable[[Path], None] | None = None,
    ) -> None:
        """Copies everything and begins to write; `also` may write more files into the directory, `then` is called with
        it when it is complete."""
        self.finish()
        if self.group is None:
            self.group = dist.new_group(backend="gloo")
        fresh = self.ranks.on_first(lambda: _begin(run_dir, policy, state["step"]))
        if policy.adapters is not None:
            policy.save(fresh)  # they are small; the base is where it was
        if also is not None:
            also(fresh)
        whole = state | checkpoint.counters(policy, optimizer)
        self._publish = lambda: then(checkpoint.publish(fresh, whole))
        tensors = _weights(policy) | optimizer_tensors(policy, optimizer.optimizer)
        self._running = async_save(
            {name: one.detach() for name, one in tensors.items()},
            checkpoint_id=str(fresh / SHARDS),
            process_group=self.group,
        )

    @property
    def is_writing(self) -> bool:
        return self._running is not None

    def poll(self) -> None:
        """Publishes the checkpoint if it is complete by now."""
        if self._running is not None and not self.ranks.max(int(not self._running.done())):
            self.finish()

    def finish(self) -> None:
        """Waits for the checkpoint that is being written, if any, and publishes it."""
        if self._running is None or self._publish is None:
            return
        self._running.result()
        self.ranks.gather(None)  # all have written
        self.ranks.on_first(self._publish)
        self._running = self._publish = None


def _begin(run_dir: Path, policy: Policy, step: int) -> Path:
    """The small files of the checkpoint."""
    fresh = checkpoint.begin(run_dir, step)
    fresh.mkdir()
    if policy.adapters is None:
        policy.model.config.save_pretrained(fresh)
        policy.save_files(fresh)
    trainer = {"parameters": [name for name, _ in policy.trainable()], "rng": generators.state()}
    torch.save(trainer, fresh / checkpoint.TRAINER_FILE)
    return fresh


def _weights(policy: Policy) -> dict[str, Tensor]:
    """All weights, or with adapters only these."""
    if policy.adapters is None:
        return weights(policy.model)
    return {f"model.{name}": parameter for name, parameter in policy.trainable()}


def optimizer_tensors(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter name; a parameter that never had a gradient has none."""
    found = {}
    for name, parameter in policy.trainable():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"optim.{name}.{key}"] = value
    return found


def restore(path: Path, policy: Policy, optimizer: GuardedOptimizer, whole: dict[str, Any] | None) -> None:
    """The optimizer's state, from the shards of the checkpoint or from `whole`, the state of one process. The policy
    has its weights already."""
    steps = optimizer.optimizer
    if not isinstance(steps, MasterAdamW):
        raise ValueError(
            f"{path}: several processes wrote this checkpoint with optim.kind adamw, whose state another kind cannot "
            "read; restore optim.kind: adamw"
        )
    if whole is not None:
        _distribute(whole, steps)
        return
    with reading(path / SHARDS, "the table of the shards"):
        sizes = ShardReader(path / SHARDS).read_metadata().state_dict_metadata
    named = {name: steps.stepped(parameter) for name, parameter in policy.trainable()}
    state: dict[str, Tensor] = {f"model.{name}": stepped for name, stepped in named.items()}  # masters too
    for entry, facts in sizes.items():
        kind, _, rest = entry.partition(".")
        name, _, key = rest.rpartition(".")
        if kind == "optim" and name in named:
            stepped, size = named[name], facts.size  # type: ignore[union-attr]  # all entries are tensors
            same = size == stepped.shape
            value = torch.zeros_like(stepped) if same else torch.zeros(size)
            steps.state[stepped][key] = state[entry] = value.detach()
    read_shards(path, state, together=policy.shards is not None)
    steps.write_back()


@torch.no_grad()
def _distribute(whole: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Each process keeps its part of the whole state."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i, parameter in enumerate(parameters):
        if i in whole["state"]:
            optimizer.state[parameter] = {key: _like(one, parameter) for key, one in whole["state"][i].items()}
    for parameter, master in zip(parameters, whole.get(MASTERS, []), strict=False):  # of all parameters, or none
        parameter.copy_(_like(master, parameter))


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    value = value.to(parameter.to_local().device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
