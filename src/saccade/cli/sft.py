"""`saccade sft`: supervised fine-tuning on replies."""

from __future__ import annotations

from saccade.cli.options import Out, Overrides, PrintConfig, Recipe, resolve
from saccade.cli.runs import run_dir, tell


def sft(recipe: Recipe, overrides: Overrides = None, out: Out = None, print_config: PrintConfig = False) -> None:
    """Supervised fine-tuning on files of replies as the recipe says; leaves a run directory."""
    from saccade.training.config import SFTRecipe

    config = resolve(recipe, SFTRecipe, overrides, print_config)
    from saccade.training.sft import train  # imports torch, which a mistake in the recipe should not wait for

    tell(train(config, run_dir(out, recipe)))
