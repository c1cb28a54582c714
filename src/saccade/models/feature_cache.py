"""Vision features cached across steps and epochs, for a frozen tower and projector.

Features depend only on pixels, weights and dtype, so a repeated image need not be encoded again. Shape letters: V
visual tokens, K vectors of each, D their width. A prompt's features take V x K x D values: 4 to 32 MiB per image in
bfloat16 for models of 3B to 8B.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from saccade.disk import partial_of
from saccade.models.adapter import EncodedPrompt
from saccade.models.config import FeatureCacheConfig
from saccade.models.forward import Features, vision_features
from saccade.models.policy import Policy

log = logging.getLogger(__name__)


class FeatureCache:
    """A least-recently-used cache: features are evicted from memory to disk, and from disk permanently.

    Keyed by the bytes and shapes of the tower's inputs. One cache serves one model in one dtype; file names contain
    `weights_key`, so files from other weights in a reused directory are ignored.
    """

    def __init__(self, config: FeatureCacheConfig, policy: Policy, directory: Path | None = None) -> None:
        """ValueError when tower or projector trains (including adapters inside them), or `directory` is missing for
        the disk cache."""
        if not policy.vision_is_frozen():
            trained = [name for name, p in policy.trainable() if name in _vision_names(policy)]
            raise ValueError(
                f"features.memory_mb/disk_mb: the vision side trains ({trained[0]} and {len(trained) - 1} more), so "
                "its features change with every step; remove vision and projector from model.train or "
                "model.lora.targets, or set both to 0"
            )
        if config.disk_mb and directory is None:
            raise ValueError("features.disk_mb needs a directory to keep them in")
        self.config = config
        self.directory = directory if config.disk_mb else None
        self.weights_key = _weights_key(policy)
        self.hits, self.misses = 0, 0
        self._memory: OrderedDict[str, Tensor] = OrderedDict()
        self._memory_bytes = 0
        self._disk: OrderedDict[str, int] = OrderedDict()
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            found = sorted(self.directory.glob(f"{self.weights_key}-*.pt"), key=lambda path: path.stat().st_mtime)
            self._disk.update({path.stem.split("-")[1]: path.stat().st_size for path in found})

    @torch.no_grad()
    def features(self, policy: Policy, prompts: Sequence[EncodedPrompt]) -> list[Features]:
        """Features of the prompts in order; the tower runs once over those that are not cached. ValueError when the
        vision side has become trainable."""
        if not policy.vision_is_frozen():
            raise ValueError("tower or projector trains, so cached features would be stale; disable the feature cache")
        keys = [_key(prompt) for prompt in prompts]
        found = {key: one for key in set(keys) if key and (one := self._get(key)) is not None}
        missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in found}
        if missing:
            fresh = vision_features(policy, list(missing.values()))
            for key, one in zip(missing, fresh, strict=True):
                found[key] = one.values
                if key:
                    self._put(key, one.values.to("cpu", copy=True))  # a view would keep the whole batch
        self.hits += sum(key != "" and key not in missing for key in keys)
        self.misses += sum(key in missing for key in keys if key)
        return [Features(found[key].to(policy.device), policy.version) for key in keys]

    def _get(self, key: str) -> Tensor | None:
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        if key in self._disk:
            self._disk.move_to_end(key)
            try:
                one = torch.load(self._path(key), weights_only=True)
            except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
                log.warning("%s cannot be read (%s); its features are computed again", self._path(key), error)
                self._disk.pop(key)
                return None
            self._put(key, one)
            return one
        return None

    def _put(self, key: str, one: Tensor) -> None:
        self._memory[key] = one
        self._memory_bytes += one.nbytes
        while self._memory_bytes > self.config.memory_mb * 2**20:
            oldest, gone = self._memory.popitem(last=False)
            self._memory_bytes -= gone.nbytes
            if self.directory is not None and oldest not in self._disk:
                self._write(oldest, gone)

    def _write(self, key: str, one: Tensor) -> None:
        """Writes to a temporary name and renames, so that a killed run leaves no partial file."""
        partial = partial_of(self._path(key))
        try:
            torch.save(one.clone(), partial)
            self._disk[key] = partial.stat().st_size
            partial.rename(self._path(key))
        except (OSError, RuntimeError) as error:  # features can be computed again: no reason to stop a run
            partial.unlink(missing_ok=True)
            log.warning("%s: features are no longer kept on disk (%s)", self.directory, str(error).splitlines()[0])
            self.directory = None
            return
        while sum(self._disk.values()) > self.config.disk_mb * 2**20:
            oldest, _ = self._disk.popitem(last=False)
            self._path(oldest).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        assert self.directory is not None
        return self.directory / f"{self.weights_key}-{key}.pt"


def _key(prompt: EncodedPrompt) -> str:
    """Hash of the tower's input; empty without images."""
    digest = hashlib.sha256()
    for name, value in sorted(prompt.pixels.items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32] if prompt.pixels else ""


def _vision_names(policy: Policy) -> set[str]:
    parts = policy.parameters_by_part()
    return {name for part in ("vision", "projector") for name, _ in parts[part]}


def _weights_key(policy: Policy) -> str:
    """Hash of the vision side's dtype and per-tensor sums, which distinguish trained or different weights."""
    parts = policy.parameters_by_part()
    digest = hashlib.sha256(str(policy.model.dtype).encode())
    for name, parameter in (*parts["vision"], *parts["projector"]):
        values = parameter.detach().double()
        digest.update(f"{name}{tuple(values.shape)}{float(values.sum())!r}{float(values.square().sum())!r}".encode())
    return digest.hexdigest()[:16]
