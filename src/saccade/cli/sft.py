"""`saccade sft`: supervised fine-tuning on replies."""

from __future__ import annotations

from saccade.cli.options import Out, Overrides, PrintConfig, Recipe, resolve
from saccade.cli.runs import run_and_print, run_dir


def sft(recipe: Recipe, overrides: Overrides = None, out: Out = None, print_config: PrintConfig = False) -> None:
    """Fine-tune on files of replies as the recipe specifies; writes a run directory."""
    from saccade.training.config import SFTRecipe

    config = resolve(recipe, SFTRecipe, overrides, print_config)
    from saccade.data.hub import refuse_unreachable

    refuse_unreachable(config.model.path)
    from saccade.training.sft import train  # imports torch, which an invalid recipe should not have to wait for

    run_and_print(train, config, run_dir(out, recipe))
