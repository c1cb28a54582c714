"""`saccade data`: what is learned about a data set by asking a model."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saccade.cli.hints import Verb
from saccade.cli.options import AsJson, Overrides, Recipe, load_recipe
from saccade.cli.terminal import echo, echo_json
from saccade.disk import write_text

if TYPE_CHECKING:
    from saccade.evaluation.config import EvalRecipe

RATES = "pass_rates.jsonl"

app = typer.Typer(help="What is learned about a data set by asking a model.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """What is learned about a data set by asking a model."""


@app.command(cls=Verb)
def passrate(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where items and pass_rates.jsonl are written.")] = Path(
        "runs/pass_rates"
    ),
    samples: Annotated[int, typer.Option("-k", min=2, help="Replies per row.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Sample k replies to each row of a recipe's data and write how many were right. If interrupted, run the same
    command again.

    saccade data passrate shapes.yaml -k 8 --out runs/rates, then in the recipe
    data: [{..., pass_rate: {file: runs/rates/pass_rates.jsonl, low: 0.1, high: 0.9}}]
    """
    from rich.progress import Progress

    from saccade.data.pass_rates import rate_row
    from saccade.evaluation.benchmarking import evaluate
    from saccade.evaluation.graded_items import ROW_ID
    from saccade.evaluation.items import read_items

    asked, key = as_evaluation(recipe, overrides or (), out, samples), os.environ.get("OPENAI_API_KEY")
    with Progress(transient=True) as bars:
        bar = bars.add_task("rows", total=None)
        evaluate(asked, lambda _, done, total: bars.update(bar, completed=done, total=total), key)
    items = read_items(out / "items.jsonl")
    rows = [rate_row(one.details.get(ROW_ID, one.sample_id), one.question, one.gold, one.verdicts) for one in items]
    write_text(out / RATES, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    counts = Counter(row["right"] for row in rows)
    mixed = sum(number for right, number in counts.items() if 0 < right < samples)
    if as_json:
        by_right = {str(right): counts[right] for right in range(samples + 1)}
        echo_json({"rows": len(rows), "k": samples, "by_right": by_right, "mixed": mixed, "file": str(out / RATES)})
        return
    for right in range(samples + 1):
        bar_text = "#" * round(40 * counts[right] / len(rows))
        echo(f"  {right:>3} of {samples} right {counts[right]:>9,} {bar_text}".rstrip())
    if ungradable := sum(not item.gradable for item in items):
        echo(f"{ungradable:,} rows have a gold that cannot be graded, and the rate 0")
    echo(f"{mixed:,} of {len(rows):,} rows are neither always right nor always wrong: {out / RATES}")


def as_evaluation(recipe: str, overrides: list[str] | tuple[str, ...], out: Path, samples: int) -> EvalRecipe:
    """The evaluation that asks a recipe's training data (of an RL recipe) or its own questions (of an eval recipe)."""
    from saccade.evaluation.config import EvalRecipe
    from saccade.training.config import RLRecipe

    found = load_recipe(recipe, overrides)
    if isinstance(found, RLRecipe):
        data = [one.model_dump(exclude={"pass_rate"}, exclude_unset=True) for one in found.data]
        longest = max(stage.max_new_tokens for stage in found.stages)
        decoding = {"greedy": False, "k": samples, "max_new_tokens": longest}
        return EvalRecipe.model_validate(
            {
                "model": found.model.model_dump(exclude_unset=True),
                "data": data,
                "template": found.template,
                "decoding": decoding,
                "out": str(out),
                "seed": found.seed,
            }
        )
    if isinstance(found, EvalRecipe):
        decoding = found.decoding.model_copy(update={"greedy": False, "k": samples})
        return found.model_copy(update={"out": str(out), "decoding": decoding, "also_greedy": False})
    raise ValueError(f"{recipe}: kind is {getattr(found, 'kind', '?')!r}, expected rl or eval, which have questions")
