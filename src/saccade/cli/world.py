"""`saccade world`: data sets of the procedural world, the independent check of its answers, the base trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from saccade.cli.hints import Verb
from saccade.cli.options import AsJson, OutKey, Overrides, PrintConfig, Recipe, resolve, with_out
from saccade.cli.terminal import echo, echo_json
from saccade.config import load
from saccade.runs.stopping import interruptible

app = typer.Typer(help="The procedural visual world: data sets, their check, a base.", no_args_is_help=True)

Seed = Annotated[int, typer.Option(help="Seed of the items.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="Only this task; may be repeated.")]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the world: cells=5 objects_max=6")
]


@app.command(cls=Verb)
def make(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    settings: Settings = None,
    n: Annotated[int, typer.Option("-n", help="Items of each task.", min=1)] = 100,
    split: Annotated[str, typer.Option(help="Split of the world.")] = "train",
    seed: Seed = 0,
    tasks: Tasks = None,
) -> None:
    """Write a data set: images, VLM-R1 JSONL, Parquet, COCO, statistics, a contact sheet. KEY=VALUE are settings."""
    from saccade.world import World, WorldConfig
    from saccade.world.export import write_dataset

    folder = write_dataset(World(load(None, WorldConfig, settings or ())), out, n, seed, split, tasks)
    for file in sorted(folder.iterdir()):
        echo(str(file))


@app.command(cls=Verb)
def check(
    settings: Settings = None,
    n: Annotated[int, typer.Option("-n", help="Items of each task and split.", min=1)] = 200,
    splits: Annotated[list[str] | None, typer.Option("--split", help="Only this split; may be repeated.")] = None,
    seed: Seed = 0,
    tasks: Tasks = None,
    as_json: AsJson = False,
) -> None:
    """Recompute answers only from text and pixels; exit status 1 if one differs. KEY=VALUE configure the world."""
    from rich.progress import track

    from saccade.world import SPLITS, World, WorldConfig
    from saccade.world.checker import check as verdict_on
    from saccade.world.splits import find_split

    world = World(load(None, WorldConfig, settings or ()))
    wrong: list[str] = []
    rows: list[dict[str, Any]] = []
    pairs = [(s, t) for s in splits or SPLITS for t in find_split(s).tasks if t in (tasks or find_split(s).tasks)]
    if not pairs:
        raise ValueError(f"no split of {', '.join(splits or SPLITS)} has the task {', '.join(tasks or ())}")
    for split, task in track(pairs, "checking", transient=True):
        reasons = [verdict_on(world.item(seed, i, task, split), world.cfg.visible_share) for i in range(n)]
        found = [reason for reason in reasons if reason is not None]
        rows.append({"split": split, "task": task, "n": n, "right": n - len(found)})
        if not as_json:
            echo(f"{split:16} {task:12} {n - len(found)} of {n} right")
        wrong += found
    if as_json:
        echo_json({"rows": rows, "wrong": wrong})
    for reason in wrong[:20] if not as_json else ():
        echo(reason, err=True)
    if wrong:
        raise typer.Exit(1)


@app.command(cls=Verb)
def pretrain(
    recipe: Recipe, overrides: Overrides = None, out: OutKey = None, print_config: PrintConfig = False
) -> None:
    """Train a tiny base, or a model that has a language, on the world and score its habits; rerun with the same recipe
    to resume. Several processes of torchrun can share it."""
    from saccade.base.config import PretrainRecipe

    config = resolve(recipe, PretrainRecipe, with_out(overrides, out), print_config)
    from saccade.base.habit_scores import write_scores
    from saccade.base.pretrain import train
    from saccade.models.config import ModelConfig
    from saccade.models.policy import load_policy
    from saccade.training.ranks import join

    ranks, steps = join(), sum(stage.steps for stage in config.stages)
    if ranks.is_first:
        echo(f"{steps} steps; a row every {config.log_every} steps goes to {config.out}/metrics.jsonl", err=True)
    with interruptible(f"stopped; the last saved step is kept in {config.out}; continue with the same command"):
        model = train(config)
    if ranks.is_first:
        echo(f"{model}")
        if config.scores:
            policy = load_policy(ModelConfig(path=str(model), train=()))
            echo(f"{write_scores(policy, model.parent / 'scores.json', config.scores)}")
