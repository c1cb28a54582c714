"""Low-rank adapters through peft, in place: the tree of modules stays as it is, so every path through the model
(training, rollout, evaluation) is that of the adapted model.

A checkpoint of adapters is a directory as peft writes it (`PeftModel.from_pretrained(base, directory)` reads it) and
`base.json`, which names the base model and has a fingerprint of its weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from saccade.models.checkpoint_files import reading
from saccade.models.config import LoraConfig

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # peft imports it; an optional kernel of it
ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_FILE = "adapter_config.json", "adapter_model.safetensors", "base.json"


def check_installed() -> None:
    """ValueError when peft is not installed."""
    if find_spec("peft") is None:
        raise ValueError("LoRA needs the package peft, which is not installed; pip install 'saccade[lora]'")


def holds_adapters(path: str | Path) -> bool:
    """Whether a directory holds adapters instead of a model."""
    return (Path(path) / ADAPTER_CONFIG).is_file()


def recorded_base(path: str | Path) -> str:
    """The base model that a directory of adapters names. ValueError when it names none, or holds no LoRA."""
    config = _settings(path)
    if not any((Path(path) / name).is_file() for name in (ADAPTER_WEIGHTS, "adapter_model.bin")):
        raise ValueError(f"{path}: got {ADAPTER_CONFIG} without {ADAPTER_WEIGHTS}; the adapters themselves are missing")
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{path}: got adapters of type {config.get('peft_type')!r}, expected LORA")
    if not config.get("base_model_name_or_path"):
        raise ValueError(f"{path}/{ADAPTER_CONFIG} names no base model; set its base_model_name_or_path")
    return str(config["base_model_name_or_path"])


def _settings(path: str | Path) -> dict[str, Any]:
    """What `adapter_config.json` holds. ValueError when it is no JSON object, or names a module to import."""
    with reading(path, ADAPTER_CONFIG):
        config = dict(json.loads((Path(path) / ADAPTER_CONFIG).read_text(encoding="utf-8")))
    if config.get("megatron_config"):  # for which peft imports the module `megatron_core`
        raise ValueError(f"{path}/{ADAPTER_CONFIG}: got megatron_config, which chooses code; remove it")
    return config


def check_base(path: str | Path, base: str) -> None:
    """ValueError when the adapters at `path` were trained on another base than the weights that are now at `base`."""
    file = Path(path) / BASE_FILE
    with reading(path, BASE_FILE):
        before = json.loads(file.read_text(encoding="utf-8"))["fingerprint"] if file.is_file() else None
    now = fingerprint(base) if before else None
    if before != now:
        raise ValueError(
            f"{path}: these adapters were trained on another base: the weights at {base} have the fingerprint {now}, "
            f"expected {before}. Restore the base, or correct base_model_name_or_path in {ADAPTER_CONFIG}"
        )


BLOCKS, BLOCK = 64, 4096
"""How many blocks of a file of weights, of how many bytes, its fingerprint reads."""


def fingerprint(base: str) -> str | None:
    """A hash of sizes and samples of a local model's weights, in milliseconds; None for a model on a hub."""
    root = Path(base)
    if not root.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted([*root.glob("*.safetensors"), *root.glob("*.bin")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode(errors="surrogatepass"))
        with path.open("rb") as file:
            for i in range(BLOCKS):
                file.seek(i * max(0, size - BLOCK) // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]


NamedParts = Mapping[str, Sequence[tuple[str, nn.Parameter]]]


def linear_layers(model: Any, parts: NamedParts) -> dict[str, list[str]]:
    """Part -> full names of its linear layers that can be adapted.

    The head is left out, because log-probs read its weight without calling it; so are the layers inside torch's own
    multi-head attention, for the same reason.
    """
    head = model.get_output_embeddings()
    whole = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention))
    found = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and not name.startswith(whole)
    }
    weights = {part: [name.removesuffix(".weight") for name, _ in named] for part, named in parts.items()}
    return {part: [name for name in names if name in found] for part, names in weights.items()}


def select_layers(layers: Mapping[str, Collection[str]], targets: Sequence[str]) -> list[str]:
    """Names of the layers (given by part) that the targets select, in order. ValueError for one that selects none."""
    every = [name for names in layers.values() for name in names]
    chosen = set[str]()
    for target in targets:
        selected = layers.get(target, [name for name in every if re.fullmatch(target, name)])
        if not selected:
            shapes = dict.fromkeys(re.sub(r"\d+", "N", name) for name in every)
            kind = f"part {target!r} has" if target in layers else f"{target!r} matches"
            raise ValueError(
                f"model.lora.targets: {kind} no linear layer of this model that can be adapted (whole names count; the "
                f"head is not adapted); expected some of {', '.join(shapes)}"
            )
        chosen.update(selected)
    return [name for name in every if name in chosen]


@dataclass(frozen=True, eq=False)
class Adapters:
    """The adapters inside a model."""

    peft: Any
    """peft's model around the policy's."""
    base: str
    """Path or hub name of the model that they belong to."""

    def save(self, directory: str | Path) -> None:
        """Write a directory that plain peft reads, and the base's fingerprint."""
        self.peft.save_pretrained(directory, save_embedding_layers=False)
        (Path(directory) / "README.md").unlink(missing_ok=True)  # peft's empty form
        config = Path(directory) / ADAPTER_CONFIG
        content = json.loads(config.read_text(encoding="utf-8"))
        content["target_modules"] = sorted(content["target_modules"])  # a set: its order differs from run to run
        config.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")
        facts = {"base": self.base, "fingerprint": fingerprint(self.base)}
        (Path(directory) / BASE_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    @property
    def rank(self) -> int:
        """The largest rank of a layer's adapter."""
        return max(rank for layer in self._layers() for rank in layer.r.values())

    @property
    def enabled(self) -> bool:
        return not next(self._layers()).disable_adapters

    @contextmanager
    def off(self) -> Iterator[None]:
        """The base model within the context. (peft also clears `requires_grad` of the adapters in it.)"""
        if not self.enabled:
            yield
            return
        self.peft.base_model.disable_adapter_layers()
        try:
            yield
        finally:
            self.peft.base_model.enable_adapter_layers()

    @contextmanager
    def dropping(self, seed: int) -> Iterator[None]:
        """Dropout of the adapters' inputs within the context; the noise depends only on `seed`."""
        dropouts = [one for layer in self._layers() for one in layer.lora_dropout.values()]
        dropouts = [one for one in dropouts if isinstance(one, nn.Dropout)]
        if not dropouts:
            yield
            return
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for one in dropouts:
                one.train()
            try:
                yield
            finally:
                for one in dropouts:
                    one.eval()

    def _layers(self) -> Iterator[Any]:
        from peft.tuners.lora import LoraLayer

        return (module for module in self.peft.modules() if isinstance(module, LoraLayer))


@contextmanager
def _quietly() -> Iterator[None]:
    """For peft: it draws adapters even where it reads them, and asks transformers for a name of the past."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def attach(model: Any, parts: NamedParts, config: LoraConfig, base: str, seed: int) -> Adapters:
    """Adapters that change nothing yet (B is 0), in the model's dtype: the optimizer keeps float32 copies of those in
    bfloat16. `seed` draws A."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    options = PeftLoraConfig(
        r=config.rank,
        lora_alpha=int(config.alpha) if config.alpha.is_integer() else config.alpha,  # type: ignore[arg-type]  # a ratio
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        target_modules=select_layers(linear_layers(model, parts), config.targets),
    )
    with _quietly():
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, options, autocast_adapter_dtype=False)
    return _ready(wrapped, model, base)


def read(model: Any, directory: str | Path, base: str, trainable: bool) -> Adapters:
    """The adapters of a directory. ValueError when they do not fit the model."""
    from peft import PeftModel, get_peft_model_state_dict

    _settings(directory)
    with reading(directory, f"adapters for the base model {base}"), _quietly():
        wrapped = PeftModel.from_pretrained(model, directory, is_trainable=trainable, autocast_adapter_dtype=False)
        expected = get_peft_model_state_dict(wrapped, save_embedding_layers=False).keys()
        stored = _stored(directory, expected)
    if differ := sorted(expected ^ stored):
        raise ValueError(
            f"{directory}: these adapters do not fit the base model {base}: {len(differ)} tensors are in one of them "
            f"only, such as {differ[0]}"
        )
    return _ready(wrapped, model, base)


def _stored(directory: str | Path, otherwise: Any) -> set[str]:
    """Names of the tensors in a directory of adapters."""
    path = Path(directory) / ADAPTER_WEIGHTS
    if not path.is_file():
        return set(otherwise)  # an old file of pickled tensors, whose names peft itself compares
    with safe_open(path, framework="pt") as file:
        return {name for name in file.keys() if "lora_" in name or name in otherwise}  # noqa: SIM118 - not a mapping


def _ready(wrapped: Any, model: Any, base: str) -> Adapters:
    named = str(Path(base).resolve()) if Path(base).is_dir() else base
    wrapped.peft_config["default"].base_model_name_or_path = named
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(model.dtype)
    wrapped.eval()
    return Adapters(wrapped, named)


def merge(model: Any, directory: str | Path, base: str) -> None:
    """Add the adapters of a directory to the model's weights. ValueError when they do not fit."""
    with reading(directory, f"adapters for the base model {base}"):  # some kinds cannot be merged
        read(model, directory, base, trainable=False).peft.merge_and_unload()
