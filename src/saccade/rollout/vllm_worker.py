"""Runs inside a vLLM server's workers: loads weights from our files, and describes the model that is served.

    vllm serve ... --worker-extension-cls saccade.rollout.vllm_worker.Extension

The server's environment needs only a folder that holds `saccade` on its PYTHONPATH: nothing but torch and safetensors
is imported here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import safe_open

COMPARED = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)
"""Keys of a model's configuration that tell its architecture."""


class Extension:
    """Methods that `/collective_rpc` calls; vLLM adds them to its worker class."""

    def saccade_describe(self) -> dict[str, Any]:
        """The architecture of the served model and the dtype of its weights."""
        worker: Any = self
        config = worker.model_runner.model_config
        return {"architecture": architecture(config.hf_config.to_dict()), "dtype": str(config.dtype)}

    def saccade_load(self, paths: list[str]) -> dict[str, Any]:
        """Load safetensors files with names as in a checkpoint; returns the checksum of all tensors that were read."""
        worker: Any = self
        total = Checksum()

        def tensors() -> Iterator[tuple[str, torch.Tensor]]:
            for path in paths:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - not a mapping
                        tensor = file.get_tensor(name)
                        total.add(name, tensor)
                        yield name, tensor

        worker.model_runner.reload_weights(weights_iterator=tensors())
        renew_packed(worker.model_runner.get_model())
        return {"checksum": total.value, "tensors": total.tensors}


def renew_packed(model: Any) -> None:
    """On a CPU linear layers multiply by a packed copy of their weight. vLLM renews it for each layer that receives a
    tensor, but a head that is tied to the embeddings receives none and would keep the old ones."""
    for module in model.modules():
        if hasattr(module, "cpu_linear") and module.weight.numel():
            module.quant_method.process_weights_after_loading(module)


class Checksum:
    """A checksum of named tensors that does not depend on their order: what was sent is compared with what was read."""

    def __init__(self) -> None:
        self.value = 0
        self.tensors = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        flat = flat.view(torch.int32) if flat.numel() % 4 == 0 else flat
        places = torch.arange(1, len(flat) + 1, dtype=torch.int64) if len(flat) <= PLACED else None
        total = int(flat.sum(dtype=torch.int64)) if places is None else int((flat * places).sum())
        salt = sum((i + 1) * byte for i, byte in enumerate(name.encode()))
        self.value = (self.value + total * (2 * salt + 1)) % 2**53  # JSON numbers are exact up to here
        self.tensors += 1


PLACED = 1 << 24
"""Up to this many numbers the checksum also depends on their order, which takes memory."""


def architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """What distinguishes models of different shapes, from a configuration as transformers writes it."""
    found = {key: config[key] for key in COMPARED if key in config}
    for part in ("text_config", "vision_config"):
        inner = config.get(part)
        if isinstance(inner, Mapping):
            found |= {f"{part}.{key}": inner[key] for key in COMPARED if key in inner and key != "model_type"}
    return json.loads(json.dumps(found, default=str))
