"""The engine seam: whatever turns prompts into completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import Field, model_validator

from saccade.config import Config
from saccade.models.adapter import EncodedPrompt
from saccade.models.forward import Features
from saccade.models.policy import Policy
from saccade.types import Completion

CudaGraphs = Literal["auto", "on", "off"]
Form = Literal["slots", "fixed_slots", "cached"]


class Sampling(Config):
    """How replies are drawn. The default distribution is the one whose log-probs are trained: temperature 1, no cut.

    The cuts act in the order top-k, top-p (of the mass that top-k left), min-p, as in transformers. They change what is
    drawn, never the log-probs that are recorded: those are of the whole temperature-scaled distribution.
    """

    max_new_tokens: int = Field(default=256, ge=1)
    min_new_tokens: int = Field(default=0, ge=0)
    """The tokens that end a turn cannot be drawn before a reply has this many others."""
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    """The likeliest tokens whose probabilities together reach this."""
    top_k: int = Field(default=0, ge=0)
    """0 keeps all tokens."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Tokens at least this many times as likely as the likeliest; 0 keeps all."""
    greedy: bool = False
    stop_strings: tuple[str, ...] = ()
    """A reply ends with the token that completes one of these in its text, and keeps it."""
    repetition_stop: int = Field(default=0, ge=0)
    """A reply ends when its last tokens are one run of 1 to 64 tokens, that many times in a row; 0 lets it go on."""

    @model_validator(mode="after")
    def _possible(self) -> Sampling:
        check_endings(self.stop_strings, self.repetition_stop)
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens} but max_new_tokens {self.max_new_tokens}; expected no more"
            )
        return self


def check_endings(stop_strings: Sequence[str], repetition_stop: int) -> None:
    """ValueError for rules that would end every reply at its first token."""
    if repetition_stop == 1:
        raise ValueError("repetition_stop is 1, which would end every reply at once; use 0 (off) or 2 and more")
    if "" in stop_strings:
        raise ValueError("stop_strings holds an empty text, which every reply contains; remove it")


@dataclass(slots=True)
class EngineStats:
    """What the built-in engine did in its last call."""

    form: Form
    """slots: prompt keys and values kept once, rows come and go; fixed_slots: the same in steps of few shapes, for CUDA
    graphs; cached: the family's own cache, a prompt at a time."""
    prefills: int = 0
    """Prompts that the language model read, each once."""
    vision_passes: int = 0
    """Prompts with images that the vision tower saw here; 0 when the features were handed in."""
    steps: int = 0
    """Decoding steps: forward passes after the prefills."""
    row_steps: int = 0
    """Rows that these passes ran, summed; with fixed_slots those that a shape is rounded up by too."""
    ideal_row_steps: int = 0
    """What the replies need: the first token comes from the prefill, each further one takes a row of one step."""
    most_rows: int = 0
    """Rows decoded at once, at most."""


class Engine(Protocol):
    """Built-in, server-backed and remote engines are interchangeable behind these two verbs."""

    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        sampling: Sampling,
        n: int,
        seed: int,
        features: Features | None = None,
    ) -> list[list[Completion]]:
        """n completions per prompt, in the order of the prompts; the same for the same weights, prompts and seed."""
        ...

    def sync(self, policy: Policy, version: int) -> None:
        """Use the weights of `policy`, which are version `version`, from now on."""
        ...
