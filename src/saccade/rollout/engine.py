"""The engine seam: whatever turns prompts into completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pydantic import Field

from saccade.config import Config
from saccade.models.adapter import EncodedPrompt
from saccade.models.forward import Features
from saccade.models.policy import Policy
from saccade.types import Completion


class Sampling(Config):
    """How replies are drawn. The default distribution is the one whose log-probs are trained: temperature 1, no cut."""

    max_new_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    """0 keeps all tokens."""
    greedy: bool = False


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
