"""A policy's weights as files that a vLLM server loads: a checkpoint with merged adapters, or the adapters alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from saccade.disk import writing
from saccade.models.policy import SHARD_SIZE, Policy
from saccade.rollout.vllm_worker import Checksum

THEN = "free some space there, or choose another directory for the weights that servers load"


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """What was written for one version of a policy."""

    directory: Path
    checksum: int = 0
    """See `Checksum`; 0 for adapters, which the server reads by itself."""
    tensors: int = 0

    @property
    def paths(self) -> list[str]:
        return [str(path) for path in sorted(self.directory.glob("*.safetensors"))]

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def write_weights(policy: Policy, directory: Path) -> WeightFiles:
    """Write all weights under the names of a checkpoint, LoRA adapters merged. ValueError for weights in 4 bits, which
    merging would not leave as they are."""
    with merged_state(policy) as state, writing(directory, THEN):
        policy.model.save_pretrained(directory, state_dict=state, max_shard_size=SHARD_SIZE)
    total = Checksum()
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                total.add(name, file.get_tensor(name))
    return WeightFiles(directory, total.value, total.tensors)


def write_adapters(policy: Policy, directory: Path) -> WeightFiles:
    """Write the LoRA adapters alone, as peft and vLLM read them."""
    assert policy.adapters is not None
    with writing(directory, THEN):
        policy.adapters.save(directory)
    return WeightFiles(directory)


def checkpoint_state(policy: Policy) -> dict[str, Tensor]:
    """All tensors under the names of a checkpoint, LoRA adapters merged; not copied where nothing is merged."""
    from transformers.core_model_loading import revert_weight_conversion

    with merged_state(policy) as state:
        return revert_weight_conversion(policy.model, policy.model.state_dict() if state is None else state)


@contextmanager
def merged_state(policy: Policy) -> Iterator[dict[str, Tensor] | None]:
    """The model's tensors by name with adapters merged into copies: the trainer's own weights are not touched, so that
    no rounding accumulates in them. None for a model without adapters, whose own state is to be saved."""
    if policy.adapters is None:
        yield None
        return
    from peft.tuners.lora import LoraLayer

    state = {name: tensor for name, tensor in policy.model.state_dict().items() if "lora_" not in name}
    for name, module in policy.model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        key = f"{name}.base_layer.weight"
        if not state[key].is_floating_point():
            raise ValueError(
                "rollout.engine.weights: adapters of a model in 4 bits cannot be merged for the servers; set adapters, "
                "and serve the base model in the dtype of its files"
            )
        layer: Any = module
        with torch.no_grad():
            delta = sum((layer.get_delta_weight(active) for active in layer.active_adapters), torch.zeros(()))
            state[key] = (state[key] + delta.to(state[key])) if isinstance(delta, Tensor) else state[key]
    yield {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}
