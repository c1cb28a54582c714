"""How rewards become advantages, as data: each a small config with `build()`, in a union on `kind`. Nothing here
imports torch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from saccade.config import Config

if TYPE_CHECKING:
    from saccade.algorithm.advantages import Advantages


class AdvantageConfig(Config):
    """Rewards centered within their group (GRPO)."""

    kind: Literal["group"] = "group"
    std: bool | Literal["batch"] = True
    """Divide by the group's standard deviation (GRPO), or with 'batch' by that of all rewards of the step. Off is
    Dr.GRPO: no extra weight on easy and hard prompts."""
    eps: float = Field(default=1e-4, ge=0.0)
    """Added to the standard deviation."""
    unbiased: bool = True
    """Standard deviation with G - 1 in the denominator."""

    @property
    def whole_step(self) -> bool:
        """Groups of the step influence each other."""
        return self.std == "batch"

    def build(self) -> Advantages:
        from saccade.algorithm.advantages import group_relative

        return partial(group_relative, std=self.std, eps=self.eps, unbiased=self.unbiased)


class LeaveOneOut(Config):
    """RLOO: the baseline of a reply is the mean reward of its siblings."""

    kind: Literal["leave_one_out"] = "leave_one_out"
    whole_step: ClassVar[bool] = False

    def build(self) -> Advantages:
        from saccade.algorithm.advantages import leave_one_out

        return leave_one_out


class ReinforcePlusPlus(Config):
    """REINFORCE++: rewards normalized over all tokens of the step."""

    kind: Literal["reinforce_pp"] = "reinforce_pp"
    whole_step: ClassVar[bool] = True
    baseline: Literal["none", "group"] = "none"
    """group subtracts the group's mean first (REINFORCE++-baseline)."""
    eps: float = Field(default=1e-8, ge=0.0)
    """Added to the standard deviation."""

    def build(self) -> Advantages:
        from saccade.algorithm.advantages import reinforce_pp

        return partial(reinforce_pp, baseline=self.baseline == "group", eps=self.eps)


class Gdpo(Config):
    """GDPO: each reward of the rubric is normalized within the group, then their weighted sum over the step."""

    kind: Literal["gdpo"] = "gdpo"
    whole_step: ClassVar[bool] = True
    weights: dict[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    """By the name of a rubric's part; one that is not named has the rubric's weight."""
    eps: float = Field(default=1e-4, ge=0.0)
    """Added to the standard deviations."""

    def build(self) -> Advantages:
        from saccade.algorithm.advantages import gdpo

        return partial(gdpo, weights=self.weights, eps=self.eps)


AnyAdvantage = Annotated[AdvantageConfig | LeaveOneOut | ReinforcePlusPlus | Gdpo, Field(discriminator="kind")]
