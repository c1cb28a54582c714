"""Pure tensor functions of policy optimization. Names are imported on first use: the configs need no torch."""

from typing import TYPE_CHECKING

from saccade.lazy import first_use

if TYPE_CHECKING:
    from saccade.algorithm.advantages import GroupRewards, build_advantages
    from saccade.algorithm.aggregate import Denominators
    from saccade.algorithm.config import AdvantageConfig, LossConfig
    from saccade.algorithm.inputs import LossInputs
    from saccade.algorithm.loss import Loss, LossOutput, build_loss, sampler_gap

__all__ = [
    "AdvantageConfig",
    "Denominators",
    "GroupRewards",
    "Loss",
    "LossConfig",
    "LossInputs",
    "LossOutput",
    "build_advantages",
    "build_loss",
    "sampler_gap",
]

_PLACES = {
    "AdvantageConfig": "config",
    "Denominators": "aggregate",
    "GroupRewards": "advantages",
    "Loss": "loss",
    "LossConfig": "config",
    "LossInputs": "inputs",
    "LossOutput": "loss",
    "build_advantages": "advantages",
    "build_loss": "loss",
    "sampler_gap": "loss",
}

__getattr__ = first_use(__name__, _PLACES)
