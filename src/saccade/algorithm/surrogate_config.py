"""The surrogates of a recipe, as data: each a small config with `build()`, in a union on `kind`. Nothing here imports
torch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from saccade.config import Config

if TYPE_CHECKING:
    from saccade.algorithm.surrogate import Surrogate


class Clipped(Config):
    """PPO's clip (GRPO); `high` above `low` is DAPO's clip-higher. GSPO needs clips near 3e-4."""

    kind: Literal["clipped"] = "clipped"
    low: float = Field(default=0.2, ge=0.0, le=1.0)
    """Ratios below 1 - low stop counting."""
    high: float = Field(default=0.2, ge=0.0)
    """Ratios above 1 + high stop counting."""
    dual: float | None = Field(default=None, gt=1.0)
    """Dual clip: with a negative advantage, ratios above this (3 is usual) stop counting too. null: no limit."""

    @model_validator(mode="after")
    def _dual_is_outside(self) -> Clipped:
        if self.dual is not None and self.dual <= 1.0 + self.high:
            raise ValueError(f"dual: got {self.dual:g}; expected more than 1 + high, which is {1.0 + self.high:g}")
        return self

    def build(self) -> Surrogate:
        from saccade.algorithm.surrogate import clipped

        return partial(clipped, low=self.low, high=self.high, dual=self.dual)


class Cispo(Config):
    """MiniMax-M1's: the weight is capped, the gradient never cut."""

    kind: Literal["cispo"] = "cispo"
    high: float = Field(ge=0.0)
    """Ratios are capped at 1 + high."""

    def build(self) -> Surrogate:
        from saccade.algorithm.surrogate import cispo

        return partial(cispo, high=self.high)


class Reinforce(Config):
    """No ratio at all; correct only for the first update on a rollout."""

    kind: Literal["reinforce"] = "reinforce"

    def build(self) -> Surrogate:
        from saccade.algorithm.surrogate import reinforce

        return reinforce


class Sapo(Config):
    """SAPO's soft gate: a sigmoid of the ratio, steeper for negative advantages."""

    kind: Literal["sapo"] = "sapo"
    tau_positive: float = Field(default=1.0, gt=0.0)
    tau_negative: float = Field(default=1.05, gt=0.0)

    def build(self) -> Surrogate:
        from saccade.algorithm.surrogate import sapo

        return partial(sapo, tau_positive=self.tau_positive, tau_negative=self.tau_negative)


class Gmpo(Config):
    """GMPO's geometric mean of clipped token ratios (with the sequence_mean aggregation)."""

    kind: Literal["gmpo"] = "gmpo"
    low: float = Field(default=0.4, ge=0.0)
    """Log ratios below -low stop counting: the bounds are exp(-0.4) and exp(0.4)."""
    high: float = Field(default=0.4, ge=0.0)
    """Log ratios above this stop counting."""

    def build(self) -> Surrogate:
        from saccade.algorithm.surrogate import gmpo

        return partial(gmpo, low=self.low, high=self.high)


class Dppo(Config):
    """DPPO: what counts is how far a token's probability moved, not its ratio."""

    kind: Literal["dppo"] = "dppo"
    divergence: Literal["tv", "kl"] = "tv"
    """Binary total variation |p - p_old|, or the binary KL."""
    low: float = Field(default=0.2, ge=0.0)
    """Limit for tokens of negative advantage that became less likely."""
    high: float = Field(default=0.2, ge=0.0)
    """Limit for tokens of positive advantage that became likelier."""

    def build(self) -> Surrogate:
        from saccade.algorithm import surrogate

        function = surrogate.dppo_tv if self.divergence == "tv" else surrogate.dppo_kl
        return partial(function, low=self.low, high=self.high)


SurrogateConfig = Annotated[Clipped | Cispo | Reinforce | Sapo | Gmpo | Dppo, Field(discriminator="kind")]
TOKEN_RATIO_ONLY = ("reinforce", "gmpo", "dppo")
"""Kinds that use no ratio, or form their own from the tokens'."""
