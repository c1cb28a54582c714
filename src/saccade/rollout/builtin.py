"""The built-in engine: each prompt is prefilled once, and finished rows are replaced by waiting ones.

Shape letters: N rows, V vocabulary, D hidden size.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from saccade.models.adapter import EncodedPrompt
from saccade.models.forward import check_features, vision_features
from saccade.models.logprobs import head_of
from saccade.models.policy import Policy
from saccade.rollout.cached import Cached
from saccade.rollout.config import DEFAULT_ENGINE, BuiltinEngineConfig, CudaGraphs, Sampling
from saccade.rollout.engine import DecoderKind, EngineStats
from saccade.rollout.fixed_slots import FixedSlots, Limits, Runner
from saccade.rollout.graphs import CudaRecorder, Graphs
from saccade.rollout.prompts import Prompt
from saccade.rollout.replies import DecodingRow, StopRules, uniforms
from saccade.rollout.sampling import TokenSampler
from saccade.rollout.slots import Slots
from saccade.types import Completion


class Decoder(Protocol):
    """The rows being decoded and their keys and values. `place` is a prompt's index in the call."""

    def prefill(self, places: Sequence[int], prompts: Sequence[EncodedPrompt], features: Sequence[Tensor]) -> None: ...

    def hidden(self, place: int) -> Tensor: ...

    def drop_prompt(self, place: int) -> None: ...

    def add_rows(self, places: Sequence[int]) -> None: ...

    def remove_rows(self, gone: Sequence[int]) -> list[int]: ...

    def padded_rows(self, rows: int) -> int: ...

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor: ...


class BuiltinEngine:
    """Generates with the policy's own weights, in process. Sampler log-probs equal the trainer's to round-off.

    ValueError for `cuda_graphs: on` without a GPU. `runner` executes the fixed-shape steps, on any device.
    """

    def __init__(
        self, policy: Policy, config: BuiltinEngineConfig = DEFAULT_ENGINE, runner: Runner | None = None
    ) -> None:
        self.policy = policy
        self.max_rows = config.max_rows
        self.runner = graphs_for(policy, config.cuda_graphs) if runner is None else runner
        self.stats = EngineStats("slots")

    def sync(self, policy: Policy) -> None:
        self.policy = policy

    def close(self) -> None:
        """Nothing to release: the engine uses the policy's weights."""

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
        their prompt or the current weights; FloatingPointError when the model's logits are not finite.
        """
        if len(seeds) != len(prompts):
            raise ValueError(f"got {len(seeds)} seeds for {len(prompts)} prompts; expected one for each")
        rows = _rows(seeds, sampling, n, lengths)
        given = [(prompt.encoded, prompt.features) for prompt in prompts if prompt.features is not None]
        check_features(self.policy, [encoded for encoded, _ in given], [features for _, features in given])
        call = _Call(self, prompts, sampling, [row for group in rows for row in group], n)
        try:
            call.run()
        finally:
            if self.runner is not None:  # the call's memory is released, and weights may move before the next call
                self.runner.reset()
        self.stats = call.stats
        return [[self._completion(row, prompts[row.place].encoded) for row in group] for group in rows]

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


class _Call:
    """One call of the engine: waiting rows, rows being decoded, and prompts in memory."""

    def __init__(
        self,
        engine: BuiltinEngine,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        waiting: list[DecodingRow],
        n: int,
    ) -> None:
        policy, adapter = engine.policy, engine.policy.adapter
        self.policy, self.prompts, self.n = policy, prompts, n
        self.max_rows = engine.max_rows
        self.waiting, self.rows = deque(waiting), list[DecodingRow]()
        self.unfinished = [0] * len(prompts)
        for row in waiting:
            self.unfinished[row.place] += 1
        self.refills = adapter.sharing == "attention"
        self.decoder, kind = self._decoder(engine.runner)
        self.resident: set[int] = set()
        self.stats = EngineStats(kind)
        self.head = head_of(policy.model)
        self.sampler = TokenSampler(sampling, adapter.banned_ids, adapter.stop_ids, policy.device)
        self.stop_rules = StopRules(sampling, adapter.stop_ids, adapter.decode)

    def _decoder(self, runner: Runner | None) -> tuple[Decoder, DecoderKind]:
        if not self.refills:
            return Cached(self.policy), "cached"
        if runner is None:
            return Slots(self.policy), "slots"
        rows = max(1, min(self.max_rows, len(self.waiting)))
        limits = Limits(
            rows=rows,
            group_size=min(self.n, rows),
            own_tokens=max((row.max_tokens for row in self.waiting), default=1),
            prompts=len(self.prompts),
            prompt_tokens=max((len(prompt.encoded) for prompt in self.prompts), default=0),
        )
        return FixedSlots(self.policy, limits, runner), "fixed_slots"

    def run(self) -> None:
        while self.waiting or self.rows:
            if self._free_rows() > 0:
                self._admit(self._free_rows())
            if self.rows:
                self._step()

    def _free_rows(self) -> int:
        """Number of waiting rows to admit now. A few free slots are kept until there are more, so that prompts are
        prefilled together."""
        free = self.max_rows - len(self.rows)
        if self.rows and (not self.refills or free < min(len(self.waiting), self.n, self.max_rows // 4 or 1)):
            return 0
        return min(free, len(self.waiting))

    def _admit(self, count: int) -> None:
        """Sample the first token of waiting rows from their prompts' last hidden states; unfinished rows join the
        decoder."""
        if not self.refills:  # one prompt at a time
            count = min(count, sum(row.place == self.waiting[0].place for row in self.waiting))
        rows = [self.waiting.popleft() for _ in range(count)]
        self._prefill([place for place in dict.fromkeys(row.place for row in rows) if place not in self.resident])
        places = list(dict.fromkeys(row.place for row in rows))
        logits_BV = self.head.logits(torch.stack([self.decoder.hidden(place) for place in places]))
        which_N = torch.tensor([places.index(row.place) for row in rows], device=logits_BV.device)
        ended = self._sample(logits_BV[which_N], rows)
        entering = [row for row, end in zip(rows, ended, strict=True) if not end]
        if entering:
            self.decoder.add_rows([row.place for row in entering])
            self.rows += entering
            self.stats.most_rows = max(self.stats.most_rows, len(self.rows))
        self._release(rows, ended)

    def _prefill(self, places: list[int]) -> None:
        if not places:
            return
        prompts = [self.prompts[place] for place in places]
        missing = [prompt.encoded for prompt in prompts if prompt.features is None]
        self.stats.vision_passes += sum(bool(prompt.pixels) for prompt in missing)
        fresh = iter(vision_features(self.policy, missing) if missing else ())
        features = [next(fresh) if prompt.features is None else prompt.features for prompt in prompts]
        self.decoder.prefill(places, [prompt.encoded for prompt in prompts], [one.values for one in features])
        self.resident.update(places)
        self.stats.prefills += len(places)

    def _step(self) -> None:
        rows = self.rows
        hidden_ND = self.decoder.step([row.tokens[-1] for row in rows], [len(row.tokens) - 1 for row in rows])
        self.stats.steps += 1
        self.stats.row_steps += self.decoder.padded_rows(len(rows))
        ended = self._sample(self.head.logits(hidden_ND), rows)
        gone = [i for i, end in enumerate(ended) if end]
        if gone:
            self._release(rows, ended)  # first, otherwise memory that the decoder rearranges would exist twice
            self.rows = [rows[i] for i in self.decoder.remove_rows(gone)]

    def _sample(self, logits_NV: Tensor, rows: Sequence[DecodingRow]) -> list[bool]:
        """Append each row's next token; returns whether the row ends. FloatingPointError for nonfinite logits."""
        uniform_N = torch.tensor([row.uniforms[len(row.tokens)] for row in rows], dtype=torch.float64)
        early = [i for i, row in enumerate(rows) if len(row.tokens) < row.min_tokens]
        tokens, logprobs = self.sampler(logits_NV, uniform_N, early)
        for row, logprob in zip(rows, logprobs, strict=True):
            if not math.isfinite(logprob):
                raise FloatingPointError(
                    f"prompt {self.prompts[row.place].encoded.prompt_id} (number {row.place} of the call), token "
                    f"{len(row.tokens)} of reply {row.number}: the model at weights version {self.policy.version} "
                    f"gave a log-prob of {logprob}; expected a finite number. The weights or activations overflowed: "
                    "resume from an earlier checkpoint, or use float32"
                )
        drawn = zip(rows, tokens, logprobs, strict=True)
        return [self.stop_rules.append(row, token, logprob) for row, token, logprob in drawn]

    def _release(self, rows: Sequence[DecodingRow], ended: Sequence[bool]) -> None:
        """Count finished replies; a prompt whose replies are all finished releases its memory."""
        for row, end in zip(rows, ended, strict=True):
            if end:
                self.stats.ideal_row_steps += len(row.tokens) - 1
                self.unfinished[row.place] -= 1
                if self.unfinished[row.place] == 0:
                    self.decoder.drop_prompt(row.place)
                    self.resident.remove(row.place)


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
