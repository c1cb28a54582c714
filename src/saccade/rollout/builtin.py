"""The built-in engine: each prompt is prefilled once, and finished rows are replaced by waiting ones.

Shape letters: N rows, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from saccade.models.adapter import EncodedPrompt
from saccade.models.forward import check_features
from saccade.models.policy import Policy
from saccade.rollout.call import Call, RowLimits
from saccade.rollout.config import DEFAULT_ENGINE, BuiltinEngineConfig, CudaGraphs, Sampling
from saccade.rollout.engine import EngineStats
from saccade.rollout.fixed_slots import FixedSlots, Runner
from saccade.rollout.graphs import CudaRecorder, Graphs
from saccade.rollout.kv_memory import memory_limit
from saccade.rollout.prompts import Prompt
from saccade.rollout.replies import DecodingRow, uniforms
from saccade.types import Completion


@dataclass(frozen=True, eq=False, slots=True)
class Kept:
    """What recorded steps read and write between two calls."""

    decoder: FixedSlots
    addresses: tuple[int, ...]


def addresses(policy: Policy) -> tuple[int, ...]:
    """Where the weights are."""
    return tuple(p.data_ptr() for p in policy.model.parameters())


class BuiltinEngine:
    """Generates with the policy's own weights, in process. Sampler log-probs equal the trainer's to round-off.

    ValueError for `cuda_graphs: on` without a GPU. `runner` executes the fixed-shape steps, on any device.
    """

    sends_images = False
    """It needs the encoded prompts only, not the images of `Prompt.images`."""

    def __init__(
        self, policy: Policy, config: BuiltinEngineConfig = DEFAULT_ENGINE, runner: Runner | None = None
    ) -> None:
        self.policy = policy
        self.max_rows = config.max_rows
        self.memory_mb = config.memory_mb
        self.keep_bytes = config.keep_mb * 2**20
        self._kept: Kept | None = None
        self.runner = graphs_for(policy, config.cuda_graphs) if runner is None else runner
        self.stats = EngineStats("slots")

    def sync(self, policy: Policy) -> None:
        self.policy = policy

    def close(self) -> None:
        """Release the recorded steps and their memory; the weights are the policy's."""
        self._keep(None)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        n: int,
        seeds: Sequence[int],
        lengths: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. `lengths` forces the length of every reply (prompts x n): for measurements.

        ValueError unless there is one seed per prompt and one length per reply, and for features that do not match
        their prompt or the current weights, or when the memory does not hold the longest prompt with the longest
        reply; FloatingPointError when the model's logits are not finite.
        """
        if len(seeds) != len(prompts):
            raise ValueError(f"got {len(seeds)} seeds for {len(prompts)} prompts; expected one for each")
        rows = _rows(seeds, sampling, n, lengths)
        given = [(prompt.encoded, prompt.features) for prompt in prompts if prompt.features is not None]
        check_features(self.policy, [encoded for encoded, _ in given], [features for _, features in given])
        if self._kept is not None and self._kept.addresses != addresses(self.policy):
            self._keep(None)  # a recorded step reads the weights where they were
        limit = memory_limit(self.policy, self.memory_mb, 0 if self._kept is None else self._kept.decoder.held())
        limits = RowLimits(n, self.max_rows, limit, round_prompts=self.runner is not None and self.keep_bytes > 0)
        waiting = [row for group in rows for row in group]
        call = Call(self.policy, self.runner, prompts, sampling, waiting, limits, self._kept and self._kept.decoder)
        try:
            call.run()
        except BaseException:
            self._keep(None)
            raise
        self._keep(call.decoder if isinstance(call.decoder, FixedSlots) else None)
        self.stats = call.stats
        return [[self._completion(row, prompts[row.place].encoded) for row in group] for group in rows]

    def _keep(self, decoder: FixedSlots | None) -> None:
        """Keep a decoder's memory and the steps recorded on it for the next call, if it is small enough."""
        if decoder is not None and 0 < decoder.held() <= self.keep_bytes:
            self._kept = Kept(decoder, addresses(self.policy))
            return
        self._kept = None
        if self.runner is not None:  # the memory of the recorded steps is released
            self.runner.reset()

    def _completion(self, row: DecodingRow, prompt: EncodedPrompt) -> Completion:
        assert row.reason is not None
        return Completion(
            text=prompt.opened + self.policy.adapter.decode(row.tokens),
            token_ids=tuple(row.tokens),
            logprobs=tuple(row.logprobs),
            finish_reason=row.reason,
            frames=prompt.frames,
            weights_version=self.policy.version,
        )


def graphs_for(policy: Policy, cuda_graphs: CudaGraphs) -> Graphs | None:
    """CUDA graphs for this policy's decoding steps, or None. ValueError when `on` is requested but unsupported."""
    on_gpu, shared = policy.device.type == "cuda", policy.adapter.sharing == "attention"
    if cuda_graphs == "on" and not (on_gpu and shared):
        why = f"the model is on {policy.device.type}" if not on_gpu else "this family decodes through its own cache"
        raise ValueError(f"rollout.engine.cuda_graphs: on needs a GPU and a family with slots, but {why}; use auto")
    if not (on_gpu and shared) or cuda_graphs == "off":
        return None
    return Graphs(CudaRecorder(policy.device), required=cuda_graphs == "on")


def _rows(
    seeds: Sequence[int], sampling: Sampling, n: int, lengths: Sequence[Sequence[int]] | None
) -> list[list[DecodingRow]]:
    """The rows of a call before their first token, by prompt."""
    if lengths is not None:
        shape = [len(group) for group in lengths]
        if shape != [n] * len(seeds) or not all(1 <= one <= sampling.max_new_tokens for g in lengths for one in g):
            raise ValueError(
                f"got lengths for {shape} replies; expected {n} for each of {len(seeds)} prompts, "
                f"from 1 to max_new_tokens ({sampling.max_new_tokens})"
            )
    groups = []
    for place, seed in enumerate(seeds):
        numbers = uniforms(f"{seed}", n, sampling.max_new_tokens)
        group = []
        for i in range(n):
            min_tokens, max_tokens = sampling.min_new_tokens, sampling.max_new_tokens
            if lengths is not None:
                min_tokens = max_tokens = lengths[place][i]
            group.append(DecodingRow(place, i, numbers[i], min_tokens, max_tokens))
        groups.append(group)
    return groups
