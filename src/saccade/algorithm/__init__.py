"""Pure tensor functions of policy optimization. Names are imported on first use: the configs need no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
_ELSEWHERE = {
    "build_advantages": "advantages",
    "GroupRewards": "advantages",
    "LossInputs": "inputs",
    "Denominators": "aggregate",
    "AdvantageConfig": "config",
    "LossConfig": "config",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'loss')}"), name)
