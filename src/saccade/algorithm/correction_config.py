"""Corrections for a sampler whose log-probs differ from the trainer's, as data: each a small config with `build()`, in
a union on `kind`. Nothing here imports torch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from saccade.config import Config

if TYPE_CHECKING:
    from saccade.algorithm.correction import Correction

Level = Literal["token", "sequence"]
Estimator = Literal["k1", "k2", "k3"]


class CorrectionConfig(Config):
    """What all kinds share."""

    compares: ClassVar[bool] = True
    """The trainer's log-probs are computed before the first update and compared with the sampler's."""
    drops: ClassVar[bool] = False
    """Tokens may leave the loss and its denominators."""


class NoCorrection(CorrectionConfig):
    """Every token counts as it is."""

    kind: Literal["none"] = "none"
    compares: ClassVar[bool] = False

    def build(self) -> Correction:
        from saccade.algorithm.correction import none

        return none


class _Limited(CorrectionConfig):
    limit: float = Field(gt=0.0)
    """Largest weight."""
    low: float = Field(default=0.0, ge=0.0)
    """Smallest weight."""

    @model_validator(mode="after")
    def _low_is_below(self) -> _Limited:
        if self.low >= self.limit:
            raise ValueError(f"low: got {self.low:g}; expected less than limit, which is {self.limit:g}")
        return self


class TokenTruncate(_Limited):
    """A token's weight is its ratio, at most `limit` (truncated importance sampling)."""

    kind: Literal["token_truncate"] = "token_truncate"
    limit: float = Field(default=2.0, gt=0.0)

    def build(self) -> Correction:
        from saccade.algorithm.correction import token_truncate

        return partial(token_truncate, low=self.low, high=self.limit)


class TokenMask(_Limited):
    """A token's weight is its ratio, 0 outside [low, limit]."""

    kind: Literal["token_mask"] = "token_mask"
    limit: float = Field(default=3.0, gt=0.0)

    def build(self) -> Correction:
        from saccade.algorithm.correction import token_mask

        return partial(token_mask, low=self.low, high=self.limit)


class SequenceTruncate(_Limited):
    """Every token's weight is the ratio of its whole reply, at most `limit`."""

    kind: Literal["sequence_truncate"] = "sequence_truncate"
    limit: float = Field(default=2.0, gt=0.0)

    def build(self) -> Correction:
        from saccade.algorithm.correction import sequence_truncate

        return partial(sequence_truncate, low=self.low, high=self.limit)


class SequenceMask(_Limited):
    """Every token's weight is the ratio of its whole reply, 0 outside [low, limit] (masked importance sampling)."""

    kind: Literal["sequence_mask"] = "sequence_mask"
    limit: float = Field(default=3.0, gt=0.0)

    def build(self) -> Correction:
        from saccade.algorithm.correction import sequence_mask

        return partial(sequence_mask, low=self.low, high=self.limit)


class IcePop(_Limited):
    """A token mask whose lower limit matters as much as the upper one."""

    kind: Literal["icepop"] = "icepop"
    low: float = Field(default=0.5, ge=0.0)
    limit: float = Field(default=5.0, gt=0.0)

    def build(self) -> Correction:
        from saccade.algorithm.correction import token_mask

        return partial(token_mask, low=self.low, high=self.limit)


RANGES: dict[tuple[str, str, str], tuple[float, float]] = {
    ("k1", "sequence", "sum"): (0.5, 2.0),
    ("k1", "sequence", "mean"): (0.999, 1.001),
    ("k3", "sequence", "mean"): (0.0, 0.01),
}
"""Published limits of `Rejection` by (estimator, level, over): for k1 of the ratio, else of the estimate."""


class Rejection(CorrectionConfig):
    """Tokens or whole replies whose divergence is outside of a range leave the loss and the denominators."""

    kind: Literal["rejection"] = "rejection"
    drops: ClassVar[bool] = True
    estimator: Estimator = "k1"
    level: Level = "sequence"
    over: Literal["sum", "mean", "max"] = "sum"
    """How a reply's tokens are put together (with level 'sequence')."""
    low: float | None = Field(default=None, ge=0.0)
    """Lower limit: of the ratio for k1, of the estimate for k2 and k3. null: the published one, see `RANGES`."""
    high: float | None = Field(default=None, gt=0.0)
    """Upper limit."""

    @model_validator(mode="after")
    def _has_limits(self) -> Rejection:
        if self.level == "token" and self.over != "sum":
            raise ValueError(f"over: got '{self.over}', which has no effect with level 'token'; remove it")
        low, high = self.limits
        if high is None:
            raise ValueError(
                f"high: no limit is published for estimator '{self.estimator}', level '{self.level}', over "
                f"'{self.over}'; set high"
            )
        if low >= high:
            raise ValueError(f"low: got {low:g}; expected less than high, which is {high:g}")
        return self

    @property
    def limits(self) -> tuple[float, float | None]:
        low, high = RANGES.get((self.estimator, self.level, self.over), (0.0, None))
        return low if self.low is None else self.low, high if self.high is None else self.high

    def build(self) -> Correction:
        from saccade.algorithm.correction import rejection

        low, high = self.limits
        assert high is not None  # validated
        return partial(rejection, estimator=self.estimator, level=self.level, over=self.over, limits=(low, high))


class OffPolicyMask(CorrectionConfig):
    """Replies of negative advantage from which the policy has moved far away leave the loss, not the denominators."""

    kind: Literal["off_policy_mask"] = "off_policy_mask"
    compares: ClassVar[bool] = False
    limit: float = Field(default=0.5, gt=0.0)
    """Mean of log p_sampler - log p over the reply's tokens, in nats."""

    def build(self) -> Correction:
        from saccade.algorithm.correction import none

        return none  # it depends on the policy being trained: the loss applies it, see `correction.off_policy_mask`


AnyCorrection = Annotated[
    NoCorrection | TokenTruncate | TokenMask | SequenceTruncate | SequenceMask | IcePop | Rejection | OffPolicyMask,
    Field(discriminator="kind"),
]


def default_correction(engine: str, staleness: int = 0) -> AnyCorrection:
    """The correction of a recipe that names none, by the kind of its engine.

    The built-in engine computes with the trainer's own weights and arithmetic: none. Another one has its own kernels:
    token_truncate 2. One step ahead the ratio itself is against the policy that sampled, mismatch included: none.
    """
    return NoCorrection() if engine == "builtin" or staleness else TokenTruncate()
