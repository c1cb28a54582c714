"""What each process of `test_training_ranks_ahead.py` runs: a whole run, named by its second argument."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from copy_engine import CopyEngine
from training_runs import rl_recipe

from saccade.models.policy import load_policy
from saccade.training.config import RLRecipe
from saccade.training.rl import train

RUNS: dict[str, dict[str, Any]] = {
    "updates": {
        "update": {"mini_batches": 2, "replay": {"size": 9}},
        "loss": {"kl": "k1", "kl_in": "reward", "kl_coef": 0.2, "reference_refresh": 2}
        | {"advantage": {"kind": "reinforce_pp"}},
    },
    "ahead": {},
}


def recipe_of(folder: Path, name: str) -> RLRecipe:
    recipe = rl_recipe(folder, checkpoint={"every": 2, "keep": 9}, **RUNS[name])
    staleness = int(name == "ahead")
    return recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"staleness": staleness})})


def run(folder: Path, name: str, where: Path, resume: bool = False) -> None:
    recipe = recipe_of(folder, name)
    engine = CopyEngine(load_policy(recipe.model)) if name == "ahead" else None
    train(recipe, where, engine=engine, resume=resume)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[1]) / "run")
