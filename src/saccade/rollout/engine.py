"""The engine interface: turns prompts into completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from saccade.models.policy import Policy
from saccade.rollout.config import DEFAULT_ENGINE, EngineConfig, Sampling
from saccade.rollout.prompts import Prompt
from saccade.types import Completion

DecoderKind = Literal["slots", "fixed_slots", "cached"]


class Engine(Protocol):
    """Engines are interchangeable behind these three methods.

    engine = open_engine(policy)
    (replies,) = engine.generate([prompt], Sampling(max_new_tokens=64), n=8, seeds=[derive_seed(0, "a")])
    engine.sync(policy)  # after each update
    """

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, n: int, seeds: Sequence[int]
    ) -> list[list[Completion]]:
        """n completions per prompt, in the order of the prompts.

        A prompt's completions depend on the weights, the prompt, the sampling and its own seed, not on other prompts.
        An engine may ignore the features of a prompt. ValueError unless there is one seed per prompt.
        """
        ...

    def sync(self, policy: Policy) -> None:
        """Use the weights of `policy` from now on; completions carry its `version`."""
        ...

    def close(self) -> None:
        """Release the engine's resources outside the policy. It cannot be used afterwards."""
        ...


def open_engine(policy: Policy, config: EngineConfig = DEFAULT_ENGINE) -> Engine:
    """The engine of a recipe, on the weights of `policy`: the only place that builds one.

        engine = open_engine(policy, BuiltinEngineConfig(max_rows=64))

    ValueError for options that the device or the model's family does not allow.
    """
    if config.kind == "vllm_server":
        from saccade.rollout.vllm_server import VllmServerEngine

        return VllmServerEngine(policy, config)
    if config.kind == "vllm_colocated":
        from saccade.rollout.vllm_colocated import VllmColocatedEngine

        return VllmColocatedEngine(policy, config)
    from saccade.rollout.builtin import BuiltinEngine

    return BuiltinEngine(policy, config)


@dataclass(slots=True)
class EngineStats:
    """What the built-in engine did in its last call."""

    decoder: DecoderKind
    """slots: prompt keys and values stored once, continuous batching of rows; fixed_slots: the same with few step
    shapes, for CUDA graphs; cached: the family's own cache, one prompt at a time."""
    prefills: int = 0
    """Prompts prefilled, each once."""
    vision_passes: int = 0
    """Prompts with images encoded in this call; 0 when the prompts had their features."""
    steps: int = 0
    """Decoding steps: forward passes after the prefills."""
    row_steps: int = 0
    """Total rows of these passes; with fixed_slots including the rows that pad a shape."""
    ideal_row_steps: int = 0
    """Row steps that the replies need: the first token comes from the prefill, each further one takes one row step."""
    most_rows: int = 0
    """Largest number of rows decoded at once."""
    sent_back: int = 0
    """Times that a row gave up its keys and values for want of memory, to continue later."""
    kv_bytes: int = 0
    """Most bytes that keys and values took; 0 without a limit."""
