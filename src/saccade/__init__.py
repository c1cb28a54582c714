"""Saccade: reinforcement learning of vision-language models where the group is the unit.

    from pathlib import Path
    import saccade

    recipe = saccade.load_recipe("shapes.yaml", ["num_steps=20"])
    outcome = saccade.train_rl(recipe, Path("runs/shapes"))
    rows = saccade.read_run(outcome.directory).metrics

`import saccade` loads nothing else: each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade.lazy import first_use

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
    "Adapter": "models.adapter",
    "Completion": "types",
    "Engine": "rollout.engine",
    "Reward": "rewards.table",
    "Rubric": "rewards.rubric",
    "Sample": "types",
    "Score": "types",
    "Task": "tasks.task",
    "evaluate": "evaluation.benchmarking",
    "load_policy": "models.policy",
    "load_recipe": "schemas",
    "open_engine": "rollout.engine",
    "read_run": "runs.files",
    "train_rl": "training.rl:train",
    "train_sft": "training.sft:train",
}

__getattr__ = first_use(__name__, _PLACES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
