"""`saccade eval`: a benchmark or a recipe's own held-out questions, or the comparison of two finished runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saccade.cli.options import AsJson, OutKey, Overrides, PrintConfig, variables, with_out
from saccade.cli.terminal import echo, echo_json, echo_whole
from saccade.config import dump, load, packaged
from saccade.runs.stopping import interruptible

if TYPE_CHECKING:
    from saccade.evaluation.config import EvalRecipe

Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME|RECIPE", help="A benchmark (--list), a YAML file, or a packaged recipe."),
]


def evaluate(
    name: Name = None,
    overrides: Overrides = None,
    out: OutKey = None,
    print_config: PrintConfig = False,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="Two runs' directories: their paired difference.")
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List the benchmarks and stop.")] = False,
    describe: Annotated[str | None, typer.Option(metavar="NAME", help="A benchmark's rules; 'all' for all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model. If interrupted, run the same command again: finished questions are skipped.

    saccade eval mathvista model=Qwen/Qwen2.5-VL-3B-Instruct limit=100 decoding.max_new_tokens=4096
    """
    if list_all or describe:
        _describe(describe, as_json)
    elif compare:
        _compare(*compare, as_json)
    elif name is None:
        raise ValueError("give a benchmark's name (--list) or a recipe, or --compare A B")
    else:
        recipe = recipe_of(name, with_out(overrides, out))
        if print_config:
            echo_whole(dump(recipe), nl=False)
        else:
            if not recipe.served:
                from saccade.data.hub import refuse_unreachable

                refuse_unreachable(recipe.model.path)
            _run(recipe, as_json)


def recipe_of(name: str, overrides: Sequence[str]) -> EvalRecipe:
    """The recipe of a benchmark's name, of a file, or (where `name` is KEY=VALUE) of overrides only."""
    from saccade.evaluation.config import EvalRecipe

    if "=" in name:
        recipe = load(None, EvalRecipe, [name, *overrides], variables())
    elif name.endswith(".yaml") or name in packaged() or Path(name).is_file():
        recipe = load(name, EvalRecipe, overrides, variables())
    else:
        _refuse_unknown(name)
        recipe = load(None, EvalRecipe, [f"benchmark={name}", *overrides], variables())
    recipe = as_trained(recipe)
    folder = Path(variables()["SACCADE_DATA"]) / str(recipe.benchmark)
    if recipe.benchmark and recipe.path is None and folder.is_dir():
        from saccade.evaluation.benchmarks import BENCHMARKS

        if BENCHMARKS[recipe.benchmark].needs_data:
            return recipe.model_copy(update={"path": folder})  # local files take precedence over the hub
    return recipe


def as_trained(recipe: EvalRecipe) -> EvalRecipe:
    """For the checkpoint of a run: its template, system prompt and template options where the recipe gives none; says
    so. `template=bare` and `system_prompt=` turn them off."""
    from saccade.runs.wording import wording_of

    found = None if recipe.served else wording_of(recipe.model.path)
    if found is None or recipe.template is not None:
        return recipe
    model = recipe.model.model_copy(update={k: v for k, v in found.model.items() if not getattr(recipe.model, k)})
    system = found.system_prompt if recipe.system_prompt is None else recipe.system_prompt
    echo(f"asking {found} (to change it, set template)", err=True)
    return recipe.model_copy(update={"model": model, "template": found.template, "system_prompt": system})


def _refuse_unknown(name: str) -> None:
    """ValueError for a name that is neither a recipe nor a benchmark."""
    from saccade.evaluation.benchmarks import BENCHMARKS

    if name not in BENCHMARKS:
        close = get_close_matches(name, [*BENCHMARKS, *packaged()], n=1)
        hint = f"did you mean '{close[0]}'?" if close else "see --list for the benchmarks"
        raise ValueError(f"there is no benchmark or recipe {name!r}; {hint}")


def _describe(name: str | None, as_json: bool) -> None:
    from saccade.evaluation.benchmarks import BENCHMARKS, pages

    if as_json and name is not None:
        raise ValueError("--json has no effect on --describe, which prints a text; remove it")
    if as_json:
        echo_json({"benchmarks": pages.facts(BENCHMARKS)})
    elif name is None:
        echo_whole(pages.table(BENCHMARKS))
    elif name == "all":
        echo_whole(pages.page(BENCHMARKS))
    elif name in BENCHMARKS:
        echo_whole(pages.section(BENCHMARKS[name]))
    else:
        raise ValueError(f"there is no benchmark {name!r}; expected one of {', '.join(BENCHMARKS)}")


def _compare(left: Path, right: Path, as_json: bool) -> None:
    from saccade.evaluation.benchmark_results import compare_runs, comparison_lines

    found = compare_runs(left, right)
    if as_json:
        echo_json(found)
    else:
        echo_whole("\n".join(comparison_lines(found)))


def _run(recipe: EvalRecipe, as_json: bool) -> None:
    """Evaluates with a progress bar and prints the table. API keys come from the environment."""
    from rich.progress import Progress

    from saccade.evaluation.benchmark_results import lines
    from saccade.evaluation.benchmarking import evaluate

    key = os.environ.get("OPENAI_API_KEY")
    judge_key = os.environ.get("JUDGE_API_KEY", key)
    words = f"stopped; the answers so far are kept in {recipe.directory}; continue with the same command"
    with interruptible(words), Progress(transient=True) as bars:
        tasks = {one.name: bars.add_task(one.name, total=None) for one in recipe.decodings()}
        results = evaluate(
            recipe, lambda name, done, total: bars.update(tasks[name], completed=done, total=total), key, judge_key
        )
    if as_json:
        echo_json(results)
    else:
        echo_whole("\n".join([*lines(results), str(recipe.directory / "results.json")]))
