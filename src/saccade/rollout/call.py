"""One call of the built-in engine: waiting rows, rows being decoded, and prompts in memory.

Rows enter as memory allows and grow their room in pieces. When there is no room to grow, the rows with the fewest
tokens leave their memory and wait; later their tokens are read again in one pass, and they continue. Shape letters: N
rows, B prompts, V vocabulary, D hidden size.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from saccade.models.adapter import EncodedPrompt
from saccade.models.forward import vision_features
from saccade.models.logprobs import head_of
from saccade.models.policy import Policy
from saccade.rollout.cached import Cached
from saccade.rollout.config import Sampling
from saccade.rollout.engine import DecoderKind, EngineStats
from saccade.rollout.fixed_slots import FixedSlots, Limits, Runner
from saccade.rollout.kv_memory import GROWTH, token_bytes
from saccade.rollout.prompts import Prompt
from saccade.rollout.replies import DecodingRow, StopRules
from saccade.rollout.sampling import TokenSampler
from saccade.rollout.slots import Slots

log = logging.getLogger(__name__)

PROMPT_STEP = 128
"""Tokens to a multiple of which the longest prompt is rounded up."""


class Decoder(Protocol):
    """The rows being decoded and their keys and values. `place` is a prompt's index in the call."""

    def prefill(self, places: Sequence[int], prompts: Sequence[EncodedPrompt], features: Sequence[Tensor]) -> None: ...

    def hidden(self, place: int) -> Tensor: ...

    def drop_prompt(self, place: int) -> None: ...

    def add_rows(self, places: Sequence[int]) -> None: ...

    def restore_rows(
        self, place: int, prompt: EncodedPrompt, features: Tensor, replies: Sequence[Sequence[int]]
    ) -> None: ...

    def remove_rows(self, gone: Sequence[int]) -> list[int]: ...

    def memory(self, lengths: Sequence[int], new_prompts: Sequence[int]) -> int: ...

    def compact(self) -> None: ...

    def padded_rows(self, rows: int) -> int: ...

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor: ...


@dataclass(slots=True)
class RowLimits:
    """What one call may take."""

    n: int
    """Replies of a prompt."""
    max_rows: int
    """Rows decoded at once."""
    memory: int | None
    """Bytes of keys and values; None: no limit."""
    round_prompts: bool = False
    """Round the longest prompt up, so that the next call can use this one's memory."""


class Call:
    """Decodes the waiting rows to their end; each row then holds its tokens, log-probs and reason."""

    def __init__(
        self,
        policy: Policy,
        runner: Runner | None,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        waiting: Sequence[DecodingRow],
        limits: RowLimits,
        kept: FixedSlots | None = None,
    ) -> None:
        adapter = policy.adapter
        self.policy, self.runner, self.prompts, self.limits = policy, runner, prompts, limits
        self.waiting, self.rows = deque(waiting), list[DecodingRow]()
        self.unfinished = [0] * len(prompts)
        for row in waiting:
            self.unfinished[row.place] += 1
        self.refills = adapter.sharing == "attention"
        self.decoder, kind = self._decoder(kept)
        self.resident: dict[int, Tensor] = {}
        """Vision features of the prompts in memory, by place."""
        self.stats = EngineStats(kind)
        self._full = False
        """No further row fits until one ends."""
        self.head = head_of(policy.model)
        self.sampler = TokenSampler(sampling, adapter.banned_ids, adapter.stop_ids, policy.device)
        self.stop_rules = StopRules(sampling, adapter.stop_ids, adapter.decode)

    def _decoder(self, kept: FixedSlots | None) -> tuple[Decoder, DecoderKind]:
        if not self.refills:
            return Cached(self.policy), "cached"
        if self.runner is None:
            return Slots(self.policy), "slots"
        rows = max(1, min(self.limits.max_rows, len(self.waiting)))
        longest = max((len(prompt.encoded) for prompt in self.prompts), default=0)
        limits = Limits(
            rows=rows,
            group_size=min(self.limits.n, rows),
            own_tokens=max((row.max_tokens for row in self.waiting), default=1),
            prompts=len(self.prompts),
            prompt_tokens=self._rounded(longest),
            bounded=self.limits.memory is not None,
        )
        if kept is not None and kept.policy is self.policy and kept.limits == limits:
            kept.clear()
            return kept, "fixed_slots"
        self.runner.reset()  # recorded steps belong to another memory
        return FixedSlots(self.policy, limits, self.runner), "fixed_slots"

    def _rounded(self, prompt_tokens: int) -> int:
        """Rounded up for calls to come, unless memory is tight."""
        limit, more = self.limits.memory, PROMPT_STEP * len(self.prompts) * token_bytes(self.policy)
        if not self.limits.round_prompts or (limit is not None and more > limit / 16):
            return prompt_tokens
        return -(-prompt_tokens // PROMPT_STEP) * PROMPT_STEP

    def run(self) -> None:
        """ValueError, before any pass, when memory does not hold the longest prompt with the longest reply."""
        self._check_memory()
        while self.waiting or self.rows:
            count = self._rows_to_admit()
            if count > 0:
                self._admit(count)
            if self.rows:
                self._make_room()
                self._step()
        if self.stats.sent_back:
            log.info(
                "rollout: %d replies waited for memory and continued later; keys and values took up to %.0f MiB",
                *(self.stats.sent_back, self.stats.kv_bytes / 2**20),
            )

    # Memory

    def _check_memory(self) -> None:
        limit = self.limits.memory
        if limit is None or not self.waiting:
            return
        prompt, reply = max(len(one.encoded) for one in self.prompts), max(row.max_tokens for row in self.waiting)
        if self.decoder.memory([reply], [prompt]) > limit:
            self.decoder.compact()  # memory of the last call
        needed = self.decoder.memory([reply], [prompt])
        if needed > limit:
            raise ValueError(
                f"rollout.engine.memory_mb: got {limit / 2**20:.1f} MiB for keys and values, but one prompt of "
                f"{prompt:,} tokens with one reply of {reply:,} takes {needed / 2**20:.1f} MiB; raise it, or lower the "
                "stage's max_new_tokens or the images' size (without the key, the limit is what is free on the GPU)"
            )

    def _needed(self, tokens: int, entering: Sequence[DecodingRow] = ()) -> int:
        """Bytes of keys and values when every row has grown by `tokens`, with more rows that enter."""
        places = dict.fromkeys(row.place for row in entering if row.place not in self.resident)
        lengths = [len(row.tokens) - 1 + tokens for row in self.rows] + [
            max(len(row.tokens) - 1, 0) + tokens for row in entering
        ]
        caps = (row.max_tokens for row in (*self.rows, *entering))
        lengths = [min(length, cap) for length, cap in zip(lengths, caps, strict=True)]
        return self.decoder.memory(lengths, [len(self.prompts[place].encoded) for place in places])

    def _rows_to_admit(self) -> int:
        """Number of waiting rows to admit now. A few free slots are kept until there are more, so that prompts are
        prefilled together."""
        most = self.limits.max_rows
        free = min(most - len(self.rows), len(self.waiting))
        few = min(len(self.waiting), self.limits.n, most // 4 or 1)
        if free <= 0 or (self.rows and (not self.refills or free < few or self._full)):
            return 0
        if not self.refills:  # one prompt at a time, and rows of one length
            first = self.waiting[0]
            alike = [row.place == first.place and len(row.tokens) == len(first.tokens) for row in self.waiting]
            free = min(free, [*alike, False].index(False))
        if self.limits.memory is None:
            return free
        fitting = self._fitting(list(self.waiting)[:free], self.limits.memory)
        if self.rows:
            self._full = fitting < min(few, len(self.rows) // 4 or 1)
            return 0 if self._full else fitting
        if not fitting:
            self._drop_idle_prompts(keep=self.waiting[0].place)
        return max(1, fitting)

    def _fitting(self, rows: Sequence[DecodingRow], limit: int) -> int:
        """How many of these rows fit beside the present ones, all with some tokens more."""
        low, high = 0, len(rows)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._needed(GROWTH, rows[:middle]) <= limit else (low, middle - 1)
        return low

    def _make_room(self) -> None:
        """Send rows back until the next step fits."""
        limit = self.limits.memory
        if limit is None:
            return
        needed = self._needed(1)
        if needed > limit:
            self._drop_idle_prompts()
            needed = self._needed(1)
        while len(self.rows) > 1 and needed > limit:
            self._send_back(max(1, len(self.rows) // 8))
            self.decoder.compact()
            needed = self._needed(1)
        self.stats.kv_bytes = max(self.stats.kv_bytes, needed)

    def _drop_idle_prompts(self, keep: int | None = None) -> None:
        """Release prompts of which no reply is being decoded; they are read again when their turn comes."""
        for place in set(self.resident) - {row.place for row in self.rows} - {keep}:
            self.decoder.drop_prompt(place)
            del self.resident[place]
        self.decoder.compact()

    def _send_back(self, count: int) -> None:
        """The rows with the fewest tokens release their memory, keep their tokens, and wait."""
        youngest = sorted(range(len(self.rows)), key=lambda i: (len(self.rows[i].tokens), -i))[:count]
        gone = sorted(youngest)
        self.waiting.extendleft(self.rows[i] for i in reversed(gone))
        self.rows = [self.rows[i] for i in self.decoder.remove_rows(gone)]
        self.stats.sent_back += len(gone)

    def _out_of_memory(self, rows: int) -> None:
        """After an error of the allocator with this many rows: fewer rows until the end of the call."""
        self.limits.max_rows = max(1, rows // 2)
        if self.policy.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning(
            "rollout: out of memory with %d replies being decoded; at most %d at once until the end of this call, the "
            "others wait. Lower rollout.engine.memory_mb or max_rows",
            *(rows, self.limits.max_rows),
        )

    # Rows

    def _admit(self, count: int) -> None:
        """The next waiting rows enter, or go back to the queue when memory runs out meanwhile."""
        rows = [self.waiting.popleft() for _ in range(count)]
        alone = count == 1 and not self.rows
        try:
            self._enter(rows)
            return
        except torch.OutOfMemoryError:
            if alone:
                raise
        present = set(map(id, self.rows))
        self.waiting.extendleft(row for row in reversed(rows) if row.reason is None and id(row) not in present)
        for place in {row.place for row in rows} - set(self.resident):
            self.decoder.drop_prompt(place)
        self._out_of_memory(2 * len(self.rows) or count)

    def _enter(self, rows: Sequence[DecodingRow]) -> None:
        """Prefill the rows' prompts; new rows get their first token from its last hidden state, others their keys and
        values back. Unfinished rows join the decoder."""
        self._prefill([place for place in dict.fromkeys(row.place for row in rows) if place not in self.resident])
        new = [row for row in rows if not row.tokens]
        if new:
            places = list(dict.fromkeys(row.place for row in new))
            logits_BV = self.head.logits(torch.stack([self.decoder.hidden(place) for place in places]))
            which_N = torch.tensor([places.index(row.place) for row in new], device=logits_BV.device)
            ended = self._sample(logits_BV[which_N], new)
            self._join([row for row, end in zip(new, ended, strict=True) if not end])
            self._release(new, ended)
        old = sorted((row for row in rows if row not in new), key=lambda row: (row.place, len(row.tokens)))
        for (place, length), group in groupby(old, key=lambda row: (row.place, len(row.tokens))):
            members = list(group)
            if length > 1:
                replies = [row.tokens[:-1] for row in members]
                self.decoder.restore_rows(place, self.prompts[place].encoded, self.resident[place], replies)
                self.rows += members
            else:
                self._join(members)
        self.stats.most_rows = max(self.stats.most_rows, len(self.rows))

    def _join(self, rows: Sequence[DecodingRow]) -> None:
        if rows:
            self.decoder.add_rows([row.place for row in rows])
            self.rows += rows

    def _prefill(self, places: list[int]) -> None:
        if not places:
            return
        prompts = [self.prompts[place] for place in places]
        missing = [prompt.encoded for prompt in prompts if prompt.features is None]
        self.stats.vision_passes += sum(bool(prompt.pixels) for prompt in missing)
        fresh = iter(vision_features(self.policy, missing) if missing else ())
        features = [(next(fresh) if prompt.features is None else prompt.features).values for prompt in prompts]
        self.decoder.prefill(places, [prompt.encoded for prompt in prompts], features)
        self.resident.update(zip(places, features, strict=True))
        self.stats.prefills += len(places)

    def _step(self) -> None:
        rows = self.rows
        try:
            hidden_ND = self.decoder.step([row.tokens[-1] for row in rows], [len(row.tokens) - 1 for row in rows])
            logits_NV = self.head.logits(hidden_ND)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
            logits_NV = None
        if logits_NV is None:
            # a family's own cache may have taken the tokens in some layers only, so all rows start again from it
            self._send_back((len(rows) + 1) // 2 if self.refills else len(rows))
            self.decoder.compact()
            return self._out_of_memory(len(rows))
        self.stats.steps += 1
        self.stats.row_steps += self.decoder.padded_rows(len(rows))
        ended = self._sample(logits_NV, rows)
        gone = [i for i, end in enumerate(ended) if end]
        if gone:
            self._release(rows, ended)  # first, otherwise memory that the decoder rearranges would exist twice
            self.rows = [rows[i] for i in self.decoder.remove_rows(gone)]
            self._full = False
        return None

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
                    del self.resident[row.place]
