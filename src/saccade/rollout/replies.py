"""Replies being decoded: a row's tokens on the host, and its stop rules."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy
import torch

from saccade.rollout.config import Sampling
from saccade.types import FinishReason

LONGEST_RUN = 64
"""Longest repeated run, in tokens, that `Sampling.repetition_stop` detects."""


@dataclass(eq=False, slots=True)
class DecodingRow:
    """Reply `number` to the prompt at index `place` of the call."""

    place: int
    number: int
    uniforms: numpy.ndarray
    """One random number in [0, 1) per token."""
    min_tokens: int
    """Number of tokens before which no stop token may be sampled."""
    max_tokens: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    reason: FinishReason | None = None
    """Why it ended; None while it is being decoded."""
    runs: dict[int, int] = field(default_factory=dict)
    """Distance d -> length of the current run of tokens that equal the token d positions earlier."""


class StopRules:
    """The stop rules of one call: stop tokens, stop strings, repetition, length; checked in this order."""

    def __init__(self, sampling: Sampling, stops: Sequence[int], decode: Callable[[Sequence[int]], str]) -> None:
        self.stops = frozenset(stops)
        self.strings = sampling.stop_strings
        self.times = sampling.repetition_stop
        self.decode = decode
        # a token has at least one byte, a character at most four; a few more for one cut at the window's edge
        self.window = 4 * max(map(len, self.strings), default=0) + 8
        self._may_complete: dict[int, bool] = {}
        """Token -> whether a stop string may end in its text."""

    def append(self, row: DecodingRow, token: int, logprob: float) -> bool:
        """Append a token; True when the reply ends with it, which sets `row.reason`."""
        row.tokens.append(token)
        row.logprobs.append(logprob)
        if token in self.stops:
            row.reason = "stop"
        elif self.strings and self._completes(token) and self._has_string(row.tokens):
            row.reason = "stop_string"
        elif self.times and self._repeats(row):
            row.reason = "repetition"
        elif len(row.tokens) >= row.max_tokens:
            row.reason = "length"
        return row.reason is not None

    def _completes(self, token: int) -> bool:
        """Few tokens hold the last character of a stop string, or a part of one; only then is the reply decoded."""
        if token not in self._may_complete:
            text = self.decode([token])
            ends = {one[-1] for one in self.strings}
            # a part of a character, or white space that a tokenizer may drop at the beginning
            self._may_complete[token] = any(c in ends or c == "\ufffd" for c in text) or any(c.isspace() for c in ends)
        return self._may_complete[token]

    def _has_string(self, tokens: list[int]) -> bool:
        tail = self.decode(tokens[-self.window :])
        return any(one in tail for one in self.strings) and any(one in self.decode(tokens) for one in self.strings)

    def _repeats(self, row: DecodingRow) -> bool:
        tokens, last = row.tokens, row.tokens[-1]
        distances = range(1, min(LONGEST_RUN, len(tokens) - 1) + 1)
        row.runs = {p: row.runs.get(p, 0) + 1 for p in distances if tokens[-1 - p] == last}
        return any(count >= (self.times - 1) * p for p, count in row.runs.items())


def uniforms(key: str, n: int, length: int) -> numpy.ndarray:
    """Random numbers for one prompt's replies, (n, length) in [0, 1), determined by the key."""
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.rand(n, length, generator=generator, dtype=torch.float64).numpy()
