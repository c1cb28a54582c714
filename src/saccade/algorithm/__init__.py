"""Pure tensor functions of policy optimization."""

from saccade.algorithm.advantages import AdvantageConfig, advantages, build_advantages
from saccade.algorithm.aggregate import Denominators
from saccade.algorithm.loss import Loss, LossConfig, LossInputs, LossOutput, build_loss, sampler_gap
from saccade.algorithm.presets import PRESETS

__all__ = [
    "PRESETS",
    "AdvantageConfig",
    "Denominators",
    "Loss",
    "LossConfig",
    "LossInputs",
    "LossOutput",
    "advantages",
    "build_advantages",
    "build_loss",
    "sampler_gap",
]
