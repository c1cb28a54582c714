"""The loss of a recipe, as data. A part with options of its own is a small config with `build()`, in a union on `kind`;
a part without options is a name in a table. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from saccade.algorithm.advantage_config import AdvantageConfig, AnyAdvantage, Gdpo, LeaveOneOut, ReinforcePlusPlus
from saccade.algorithm.correction_config import AnyCorrection, default_correction
from saccade.algorithm.surrogate_config import (
    TOKEN_RATIO_ONLY,
    Cispo,
    Clipped,
    Dppo,
    Gmpo,
    Reinforce,
    Sapo,
    SurrogateConfig,
)
from saccade.config import Config

__all__ = [
    "AdvantageConfig",
    "Cispo",
    "Clipped",
    "Dppo",
    "Gdpo",
    "Gmpo",
    "LeaveOneOut",
    "LossConfig",
    "Reinforce",
    "ReinforcePlusPlus",
    "Sapo",
    "SurrogateConfig",
]


class LossConfig(Config):
    """The loss of a recipe. The defaults are the project's neutral set; `recipes/presets` holds those of the papers."""

    moved: ClassVar[dict[str, str]] = {"clip_low": "surrogate.low", "clip_high": "surrogate.high"}

    ratio: Literal["token", "sequence", "sequence_token"] = "token"
    """token (GRPO), sequence (GSPO, with the sequence_mean aggregation) or sequence_token (GSPO-token)."""
    surrogate: SurrogateConfig = Clipped()
    """Without `kind`: clipped."""
    correction: AnyCorrection | None = None
    """For the distance between sampler and trainer; null: what fits the engine, see `default_correction`."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """Measured and charged only when kl_coef > 0."""
    kl_coef: float = Field(default=0.0, ge=0.0)
    """Weight of the KL to the reference model (the papers' beta); 0 loads no reference."""
    kl_in: Literal["loss", "reward"] = "loss"
    """loss (GRPO): a term of its own, with a gradient; reward (RLOO, REINFORCE++): taken off the rewards before they
    become advantages."""
    reference_refresh: int = Field(default=0, ge=0)
    """Steps after which the reference becomes the policy as it is then; 0: it stays the initial model."""
    entropy_coef: float = Field(default=0.0, ge=0.0)
    """Weight of the mean entropy of the next token, which the loss then rewards."""
    top_entropy: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the tokens, those of the highest entropy, whose surrogate counts (arXiv:2506.01939 uses 0.2)."""
    aggregation: Literal["token_mean", "sequence_mean", "sequence_sum", "constant"] = "token_mean"
    """token_mean (DAPO), sequence_mean (GRPO), sequence_sum (RLOO) or constant (Dr.GRPO, by the stage's
    max_new_tokens)."""
    advantage: AnyAdvantage = AdvantageConfig()
    """How rewards become advantages. Without `kind`: group."""

    @field_validator("surrogate", mode="before")
    @classmethod
    def _clipped_by_default(cls, value: Any) -> Any:
        return {"kind": "clipped"} | value if isinstance(value, dict) else value

    @field_validator("advantage", mode="before")
    @classmethod
    def _group_by_default(cls, value: Any) -> Any:
        return {"kind": "group"} | value if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _kl_has_a_gradient(self) -> LossConfig:
        if self.kl == "k1" and self.kl_in == "loss":
            raise ValueError(
                "kl: got 'k1', whose expected gradient is 0: as a loss it regularizes nothing; use k3 or k2, or set "
                "kl_in: reward"
            )
        return self

    @model_validator(mode="after")
    def _every_option_has_a_use(self) -> LossConfig:
        kind = self.surrogate.kind
        if kind in TOKEN_RATIO_ONLY and self.ratio != "token":
            raise ValueError(f"ratio: got '{self.ratio}', but surrogate '{kind}' does not use it; remove it")
        if self.kl_coef > 0:
            return self
        for key in ("kl", "kl_in", "reference_refresh"):
            value = getattr(self, key)
            if value != type(self).model_fields[key].default:
                raise ValueError(f"{key}: got {value!r}, but kl_coef is 0; set kl_coef > 0 or remove {key}")
        return self

    @property
    def charges_kl(self) -> bool:
        """The loss has a KL term."""
        return self.kl_coef > 0 and self.kl_in == "loss"

    @property
    def reads_every_token(self) -> bool:
        """Tokens of advantage 0 matter too: they have a gradient, or count in what is chosen."""
        drops = self.correction is not None and self.correction.drops
        return self.charges_kl or self.entropy_coef > 0 or self.top_entropy < 1 or drops

    def corrected(self, engine: str, staleness: int = 0) -> LossConfig:
        """With the correction that fits the engine's kind, where the recipe names none."""
        if self.correction is not None:
            return self
        return self.model_copy(update={"correction": default_correction(engine, staleness)})
