"""Replies of an engine to encoded prompts, for tests that care about neither samples nor single seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from saccade.models.adapter import EncodedPrompt
from saccade.models.forward import Features
from saccade.rollout.builtin import BuiltinEngine
from saccade.rollout.config import BuiltinEngineConfig, Sampling
from saccade.rollout.prompts import Prompt
from saccade.rollout.seeds import derive_seed
from saccade.types import Completion


def builtin(policy: Any, max_rows: int = 512, **options: Any) -> BuiltinEngine:
    """The built-in engine, with a `runner` or `cuda_graphs` if given."""
    runner = options.pop("runner", None)
    return BuiltinEngine(policy, BuiltinEngineConfig(max_rows=max_rows, **options), runner)


def generate(
    engine: BuiltinEngine,
    encoded: Sequence[EncodedPrompt],
    sampling: Sampling,
    n: int = 1,
    seed: int | Sequence[int] = 0,
    features: Sequence[Features] | None = None,
    **options: Any,
) -> list[list[Completion]]:
    """The replies; one seed stands for a different one per place in the call."""
    prompts = [Prompt(None, one) for one in encoded]
    if features is not None:
        prompts = [replace(prompt, features=one) for prompt, one in zip(prompts, features, strict=True)]
    seeds = [derive_seed(seed, i) for i in range(len(encoded))] if isinstance(seed, int) else seed
    return engine.generate(prompts, sampling, n, seeds, **options)
