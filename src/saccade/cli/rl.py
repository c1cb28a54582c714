"""`saccade rl`: reinforcement learning on groups."""

from __future__ import annotations

from saccade.cli.options import Out, Overrides, PrintConfig, Recipe, resolve
from saccade.cli.runs import run_dir, tell


def rl(recipe: Recipe, overrides: Overrides = None, out: Out = None, print_config: PrintConfig = False) -> None:
    """Reinforcement learning (GRPO and its kin) as the recipe says; leaves a run directory."""
    from saccade.training.rl import RLRecipe, train

    config = resolve(recipe, RLRecipe, overrides, print_config)
    tell(train(config, run_dir(out, recipe)))
