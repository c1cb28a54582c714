"""Saccade: reinforcement learning of vision-language models where the group is the unit.

    from pathlib import Path
    import saccade

    recipe = saccade.load_recipe("shapes.yaml", ["num_steps=20"])
    outcome = saccade.train_rl(recipe, Path("runs/shapes"))
    rows = saccade.read_run(outcome.directory).metrics

`import saccade` loads nothing else: each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saccade.evaluation.benchmarking import evaluate
    from saccade.models.adapter import Adapter
    from saccade.models.policy import load_policy
    from saccade.rewards.rubric import Rubric
    from saccade.rewards.table import Reward
    from saccade.rollout.engine import Engine, open_engine
    from saccade.runs.files import read_run
    from saccade.schemas import load_recipe
    from saccade.tasks.task import Task
    from saccade.training.rl import train as train_rl
    from saccade.training.sft import train as train_sft
    from saccade.types import Completion, Sample, Score

__version__ = "0.2.0"

__all__ = [
    "Adapter",
    "Completion",
    "Engine",
    "Reward",
    "Rubric",
    "Sample",
    "Score",
    "Task",
    "evaluate",
    "load_policy",
    "load_recipe",
    "open_engine",
    "read_run",
    "train_rl",
    "train_sft",
]

_PLACES = {
    "Adapter": "saccade.models.adapter:Adapter",
    "Completion": "saccade.types:Completion",
    "Engine": "saccade.rollout.engine:Engine",
    "Reward": "saccade.rewards.table:Reward",
    "Rubric": "saccade.rewards.rubric:Rubric",
    "Sample": "saccade.types:Sample",
    "Score": "saccade.types:Score",
    "Task": "saccade.tasks.task:Task",
    "evaluate": "saccade.evaluation.benchmarking:evaluate",
    "load_policy": "saccade.models.policy:load_policy",
    "load_recipe": "saccade.schemas:load_recipe",
    "open_engine": "saccade.rollout.engine:open_engine",
    "read_run": "saccade.runs.files:read_run",
    "train_rl": "saccade.training.rl:train",
    "train_sft": "saccade.training.sft:train",
}
"""Name -> module:attribute. Type checkers read the same from the imports above."""


if not TYPE_CHECKING:  # a type checker would otherwise accept any name

    def __getattr__(name: str) -> object:
        """Imports a name of `__all__` when it is first used (PEP 562)."""
        if name not in _PLACES:
            raise AttributeError(f"module 'saccade' has no attribute {name!r}; it exports {', '.join(__all__)}")
        module, _, attribute = _PLACES[name].partition(":")
        value = globals()[name] = getattr(import_module(module), attribute)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
