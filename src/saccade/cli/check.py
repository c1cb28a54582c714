"""`saccade check`: whether data is fit for training a model, in one pass before training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli.check_report import as_dict, safe, show
from saccade.cli.options import ColumnNames, DataRoot, JsonFile, Overrides, check_json, columns_of, write_json
from saccade.cli.terminal import echo
from saccade.runs.safe_text import printable

if TYPE_CHECKING:
    from saccade.config import Config
    from saccade.data import DataConfig
    from saccade.data.preflight import DataRole, PreflightEntry, PreflightReport
    from saccade.models.config import ModelConfig
    from saccade.training.config import ExampleConfig

WORLD_ITEMS = 200
"""Items of a world without end that are checked."""
FEWEST_UPDATES = 10
"""Updates below which a run is noted as too short."""


@dataclass(frozen=True)
class Subject:
    """The data to check: for training, for evaluation, and the model."""

    train: tuple[DataConfig | ExampleConfig, ...]
    held_out: tuple[DataConfig | ExampleConfig, ...]
    model: ModelConfig | None
    template: str | None = None
    system_prompt: str | None = None
    new_tokens: int = 0
    """Longest reply that must fit after a prompt."""
    recipe: Config | None = None


def check(
    data: Annotated[str, typer.Argument(metavar="DATA|RECIPE", help="A data set (with --from), or a recipe.")],
    overrides: Overrides = None,
    model: Annotated[
        str | None, typer.Option(metavar="M", help="Checkpoint whose tokenizer counts tokens; default: the recipe's.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FORMAT", help="Format of DATA, see docs/data.md; found from its rows if absent."
        ),
    ] = None,
    image_folder: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of relative image names.")] = None,
    data_root: DataRoot = None,
    column: ColumnNames = None,
    task: Annotated[str | None, typer.Option(help="Task of rows without one.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a Hugging Face data set.")] = None,
    hub: Annotated[bool, typer.Option("--hub", help="DATA is the name of a data set on the Hugging Face hub.")] = False,
    held_out: Annotated[
        list[Path] | None,
        typer.Option("--eval", metavar="DATA", help="Held-out data, checked for overlap; may be repeated."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first samples of each data set.")] = None,
    budget: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum tokens of a prompt; default: the model's context less the longest reply."),
    ] = None,
    memory: Annotated[
        float | None, typer.Option(min=0.001, help="Memory of one GPU in GB; a recipe that needs more fails the check.")
    ] = None,
    out: JsonFile = None,
    keep: Annotated[int, typer.Option("--show", min=1, help="Number of findings to print.")] = 20,
) -> None:
    """Check data before training: images, boxes, golds, duplicates, overlap, lengths. Exit status 1 if a check
    fails."""
    from saccade.config import ConfigError

    check_json(out)
    given = {
        "--hub": hub,
        "--image-folder": image_folder,
        "--data-root": data_root,
        "--column": column,
        "--task": task,
        "--split": split,
        "--eval": held_out,
        "--limit": limit,
    }
    if is_recipe(data, source):
        if wrong := [name for name, value in given.items() if value]:
            raise ConfigError(
                f"{wrong[0]} applies to a data set; set it in the recipe instead (override: data.0.limit=100)"
            )
        subject = of_recipe(data, overrides or (), model)
    else:
        if overrides:
            raise ConfigError(
                f"got {overrides[0]!r}; KEY=VALUE applies to recipes; for a data set use --task, --split and so on"
            )
        keys = {"image_folder": image_folder, "data_root": data_root, "columns": columns_of(column or ())}
        keys |= {"task": task, "split": split, "limit": limit}
        subject = of_data(data, source, hub, {k: v for k, v in keys.items() if v}, held_out or (), model)
    report, facts = run(subject, budget, keep)
    facts |= predict(subject, report, memory)
    note_updates(subject, report, facts)
    if not write_json(as_dict(report, facts), out):
        show(report, facts)
    if not safe(report, facts):
        raise typer.Exit(1)


# ------------------------------------------------------------------------------------------------------------ subjects


def is_recipe(data: str, source: str | None) -> bool:
    """A YAML file or the name of a packaged recipe, unless a format is given."""
    from saccade.config import packaged

    return source is None and (
        Path(data).suffix in (".yaml", ".yml") or (data in packaged() and not Path(data).exists())
    )


def of_data(
    data: str,
    source: str | None,
    hub: bool,
    keys: dict[str, Any],
    held_out: Sequence[Path],
    model: str | None,
) -> Subject:
    """The subject that the options describe. The evaluation has the same format."""
    from pydantic import ValidationError

    from saccade.config import said
    from saccade.data import READERS, DataConfig
    from saccade.data.guess import guess
    from saccade.data.storage import rows_file
    from saccade.models.config import ModelConfig

    if source is None and rows_file(Path(data)) is not None:
        source = "saccade"
    if source is None and (hub or not Path(data).exists()):
        raise ValueError(f"{data}: expected a recipe (.yaml), or a data set with --from, one of {', '.join(READERS)}")
    if source is None:
        guessed = guess(Path(data))
        found = guessed.config
        source, keys = found.source, {"columns": found.columns} | ({"split": found.split} if found.split else {}) | keys
        echo(f"{data}: {guessed}")

    def entry(path: Path) -> DataConfig:
        return DataConfig(source=source, path=path, **keys)

    try:
        train = DataConfig(source=source, hub=data, **keys) if hub else entry(Path(data))
        tested = None if model is None else ModelConfig(path=model)
        return Subject((train,), tuple(entry(path) for path in held_out), tested)
    except ValidationError as error:
        raise ValueError(f"--from {source}: {said(error)}") from None


def of_recipe(path: str, overrides: Sequence[str], model: str | None) -> Subject:
    """What a recipe trains and evaluates on."""
    from saccade.cli.options import load_recipe
    from saccade.config import ConfigError
    from saccade.evaluation.config import EvalRecipe
    from saccade.rollout.config import check_staleness
    from saccade.training.config import RLRecipe, SFTRecipe

    recipe = load_recipe(path, overrides)
    if not isinstance(recipe, RLRecipe | SFTRecipe | EvalRecipe):
        raise ConfigError(
            f"{path}: kind is {getattr(recipe, 'kind', '?')!r}, expected rl, sft or eval (they read data)"
        )
    tested = recipe.model if model is None else recipe.model.model_copy(update={"path": model})
    from saccade.data.hub import refuse_unreachable

    refuse_unreachable(tested.path)
    wording = (recipe.template, recipe.system_prompt)
    if isinstance(recipe, RLRecipe):
        check_staleness(recipe.rollout)
        longest = max(stage.max_new_tokens for stage in recipe.stages)
        return Subject(recipe.data, recipe.eval.data, tested, *wording, longest, recipe)
    if isinstance(recipe, SFTRecipe):
        held_out = (*recipe.heldout, *recipe.eval.data)
        return Subject(recipe.data, held_out, tested, *wording, recipe=recipe)
    longest = recipe.decoding.max_new_tokens
    return Subject((), recipe.data, None if recipe.served and model is None else tested, *wording, longest)


# ------------------------------------------------------------------------------------------------------------- running


def run(subject: Subject, budget: int | None, keep: int) -> tuple[PreflightReport, dict[str, Any]]:
    """The pass over all rows, with a progress bar; and the facts about the model."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from transformers.utils import logging as transformers_logging

    from saccade.data.preflight import preflight
    from saccade.models.counting import TokenCounter
    from saccade.models.policy import load_adapter
    from saccade.runs.safe_console import SafeConsole

    name = None if subject.model is None else subject.model.path
    facts: dict[str, Any] = {"model": name, "budget": budget}
    counter, reserved = None, ()
    if subject.model is not None:
        transformers_logging.disable_progress_bar()
        adapter = load_adapter(subject.model)
        counter, reserved = TokenCounter(adapter), adapter.reserved
        context = adapter.context_length
        facts["context"] = context
        facts["budget"] = budget or context - subject.new_tokens
        if facts["budget"] < 1:
            raise ValueError(
                f"replies of {subject.new_tokens:,} tokens leave no space for a prompt in the context of "
                f"{name}, {context:,} tokens; lower max_new_tokens, or name another model"
            )
    elif budget is not None:
        raise ValueError(f"--budget {budget}: counting tokens needs a model; give --model")
    columns = (
        SpinnerColumn(),
        *Progress.get_default_columns(),
        TextColumn("{task.completed} rows"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=SafeConsole(stderr=True), transient=True) as bars:
        report = preflight(
            entries(subject, bars, facts),
            counter,
            facts["budget"],
            template=subject.template,
            system_prompt=subject.system_prompt,
            reserved=reserved,
            keep=keep,
        )
    if not report.samples:
        why = "; ".join(facts.get("notes", ())) or "no row was found in the data"
        raise ValueError(f"there is nothing to check: {why}")
    return report, facts


def entries(subject: Subject, bars: Any, facts: dict[str, Any]) -> Iterator[PreflightEntry]:
    """All rows, those of the evaluation first, with a progress bar for each data set."""
    from rich.markup import escape

    from saccade.data.files import count_rows
    from saccade.data.storage import rows_file

    sets: list[tuple[DataRole, DataConfig | ExampleConfig]] = [("eval", one) for one in subject.held_out]
    sets.extend(("train", one) for one in subject.train)
    for number, (split, config) in enumerate(sets):
        rows = None if config.path is None else rows_file(config.path) or config.path
        total = config.limit or (None if rows is None else count_rows(rows))
        title = str(config.path or getattr(config, "hub", None) or f"world {config.task}")
        bar = bars.add_task(escape(printable(title)), total=total)
        for found in of_config(config, split, f"{number} {title}", subject, facts):
            yield found
            bars.advance(bar)
        bars.update(bar, visible=False)


def of_config(
    config: DataConfig | ExampleConfig, split: DataRole, source: str, subject: Subject, facts: dict[str, Any]
) -> Iterator[PreflightEntry]:
    """The rows of one data set."""
    from saccade.data import DataConfig
    from saccade.data.config import WORLD
    from saccade.data.kept import Kept
    from saccade.data.preflight import PreflightEntry
    from saccade.data.sources import kept_items
    from saccade.training.examples import example_items
    from saccade.types import Sample

    if isinstance(config, DataConfig):
        title = source.partition(" ")[2]
        if config.source == WORLD and config.limit is None:
            facts.setdefault("notes", []).append(f"{title}: is infinite, {WORLD_ITEMS} items were checked")
            config = config.model_copy(update={"limit": WORLD_ITEMS})
        left_out, first = 0, ""
        for place, found in kept_items(config, Kept()):
            if config.on_bad == "skip" and isinstance(found, ValueError):
                left_out, first = left_out + 1, first or f"{place}: {found}"
            else:
                yield PreflightEntry(place, found, split, source=source)
        if left_out:
            facts.setdefault("notes", []).append(f"{title}: {left_out:,} rows are skipped (on_bad: skip); {first}")
        return
    for place, found in example_items(config, subject.template, subject.system_prompt):
        if isinstance(found, ValueError):
            yield PreflightEntry(place, found, split, source=source)
        else:
            sample = found.gold or Sample(found.id, found.images, found.prompt, None, "sft")
            reply = None if found.gold is not None else found.reply
            yield PreflightEntry(place, sample, split, found.prompt, source, reply, found.before, found.unlearned)


def predict(subject: Subject, report: PreflightReport, memory: float | None) -> dict[str, Any]:
    """Tokens of a step and memory, for recipes of RL and SFT, at the lengths that were found."""
    from saccade.planning import plan as planning
    from saccade.planning.inputs import read_config, read_shape

    recipe = subject.recipe
    if not isinstance(recipe, planning.RLRecipe | planning.SFTRecipe) or not report.prompt_tokens:
        if memory is not None:
            raise ValueError(f"--memory {memory:g}: memory is predicted for recipes of kind rl and sft")
        return {}
    recipe = recipe.model_copy(update={"model": subject.model})
    visual = max(report.visual_tokens)
    setting = planning.Setting(
        images=(visual,) if visual else (),
        text_tokens=max(max(report.prompt_tokens) - visual, 1),
        completion_tokens=max(report.reply_tokens, default=None),
        memory_gb=memory or 80.0,
    )
    found = planning.plan(recipe, read_shape(read_config(recipe.model.path)[0]), setting)
    mean = report.prompt_tokens.total() and sum(k * n for k, n in report.prompt_tokens.items()) / (
        report.prompt_tokens.total()
    )
    replies = report.reply_tokens
    mean_reply = sum(k * n for k, n in replies.items()) / replies.total() if replies else None
    stages = [
        {
            "stage": stage.name,
            "tokens_per_step": round(
                stage.groups
                * (mean + stage.group_size * (stage.completion_tokens if mean_reply is None else mean_reply))
            ),
            "peak_gb": stage.peak / 1e9,
            "peak_phase": stage.peak_phase,
        }
        for stage in found.stages
    ]
    return {"stages": stages, "memory_gb": memory, "fits": found.fits if memory is not None else None}


def note_updates(subject: Subject, report: PreflightReport, facts: dict[str, Any]) -> None:
    """Says how many updates a recipe makes, and warns of a run that is too short to learn from."""
    from saccade.training.config import RLRecipe, SFTRecipe

    recipe, rows = subject.recipe, sum(report.reply_tokens.values())
    if isinstance(recipe, RLRecipe):
        updates = recipe.schedule.max_steps * recipe.update.optimizer_steps
        what = f"{recipe.prompts_per_step} prompts a step"
    elif isinstance(recipe, SFTRecipe):
        per_epoch = max(1, rows // recipe.prompts_per_step)
        updates = recipe.num_steps or round((recipe.epochs or 1) * per_epoch)
        what = f"{rows:,} replies, {recipe.prompts_per_step} prompts a step"
    else:
        return
    facts["updates"] = updates
    if updates < FEWEST_UPDATES:
        text = f"the run makes {updates} updates ({what}): hardly anything is learned from fewer than {FEWEST_UPDATES}"
        facts.setdefault("notes", []).append(text)
