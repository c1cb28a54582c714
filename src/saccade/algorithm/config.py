"""The loss of a recipe, as data. A part with options of its own is a small config with `build()`, in a union on `kind`;
a part without options is a name in a table. Nothing here imports torch.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from saccade.config import Config

if TYPE_CHECKING:
    from saccade.algorithm.surrogate import Surrogate


class AdvantageConfig(Config):
    """How rewards are centered within a group."""

    std: bool = True
    """Divide by the group's standard deviation (GRPO). Off is Dr.GRPO: no extra weight on easy and hard prompts."""
    eps: float = Field(default=1e-4, ge=0.0)
    """Added to the standard deviation."""
    unbiased: bool = True
    """Standard deviation with G - 1 in the denominator."""


class Clipped(Config):
    """PPO's clip (GRPO); `high` above `low` is DAPO's clip-higher. GSPO needs clips near 3e-4."""

    kind: Literal["clipped"] = "clipped"
    low: float = Field(default=0.2, ge=0.0, le=1.0)
    """Ratios below 1 - low stop counting."""
    high: float = Field(default=0.2, ge=0.0)
    """Ratios above 1 + high stop counting."""

    def build(self) -> Surrogate:
        from saccade.algorithm.surrogate import clipped

        return partial(clipped, low=self.low, high=self.high)


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


SurrogateConfig = Annotated[Clipped | Cispo | Reinforce, Field(discriminator="kind")]


class LossConfig(Config):
    """The loss of a recipe. The defaults are the project's neutral set; `recipes/presets` holds those of the papers."""

    moved: ClassVar[dict[str, str]] = {"clip_low": "surrogate.low", "clip_high": "surrogate.high"}

    ratio: Literal["token", "sequence"] = "token"
    """token (GRPO) or sequence (GSPO, with the sequence_mean aggregation)."""
    surrogate: SurrogateConfig = Clipped()
    """Without `kind`: clipped."""
    kl: Literal["k2", "k3"] = "k3"
    """Measured and charged only when kl_coef > 0."""
    kl_coef: float = Field(default=0.0, ge=0.0)
    """Weight of the KL to the reference model (the papers' beta); 0 loads no reference."""
    aggregation: Literal["token_mean", "sequence_mean", "constant"] = "token_mean"
    """token_mean (DAPO), sequence_mean (GRPO) or constant (Dr.GRPO, by the stage's max_new_tokens)."""
    advantage: AdvantageConfig = AdvantageConfig()
    """How rewards are centered within a group."""

    @field_validator("surrogate", mode="before")
    @classmethod
    def _clipped_by_default(cls, value: Any) -> Any:
        return {"kind": "clipped"} | value if isinstance(value, dict) else value

    @field_validator("kl", mode="before")
    @classmethod
    def _kl_has_a_gradient(cls, value: Any) -> Any:
        if value == "k1":
            raise ValueError("got 'k1', whose expected gradient is 0: as a loss it regularizes nothing; use k3 or k2")
        return value

    @model_validator(mode="after")
    def _every_option_has_a_use(self) -> LossConfig:
        if isinstance(self.surrogate, Reinforce) and self.ratio != "token":
            raise ValueError(f"ratio: got '{self.ratio}', but surrogate 'reinforce' does not use it; remove it")
        if self.kl_coef == 0 and self.kl != "k3":
            raise ValueError(f"kl: got '{self.kl}', but kl_coef is 0; set kl_coef > 0 or remove kl")
        return self
