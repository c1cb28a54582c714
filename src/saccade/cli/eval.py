"""`saccade eval`: a model's answers to held-out questions, graded, with intervals."""

from __future__ import annotations

import typer

from saccade.cli.options import OutKey, Overrides, PrintConfig, Recipe, resolve, with_out


def evaluate(
    recipe: Recipe, overrides: Overrides = None, out: OutKey = None, print_config: PrintConfig = False
) -> None:
    """Evaluate a model; stopped and started again with the same recipe, it goes on where it was."""
    from rich.progress import Progress

    from saccade.evaluation.recipe import EvalRecipe, run_eval

    config = resolve(recipe, EvalRecipe, with_out(overrides, out), print_config)
    with Progress(transient=True) as bars:
        tasks = {name: bars.add_task(name, total=None) for name in config.decoding}
        path = run_eval(config, lambda name, done, total: bars.update(tasks[name], completed=done, total=total))
    typer.echo(str(path))
