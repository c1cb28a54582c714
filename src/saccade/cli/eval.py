"""`saccade eval`: a recipe's held-out questions, a public benchmark, or the comparison of two such runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli.options import OutKey, Overrides, PrintConfig, resolve, variables, with_out
from saccade.config import dump, kind

if TYPE_CHECKING:
    from saccade.evaluation.config import BenchmarkRecipe

OptionalRecipe = Annotated[
    str | None, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a packaged recipe.")
]
PANEL = "Benchmarks (with --benchmark NAME)"


def _option(help: str, *names: str, metavar: str | None = None, **rules: Any) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=PANEL, **rules)


def evaluate(
    context: typer.Context,
    recipe: OptionalRecipe = None,
    overrides: Overrides = None,
    out: OutKey = None,
    print_config: PrintConfig = False,
    benchmark: Annotated[str | None, _option("A benchmark's name; --list shows all.", metavar="NAME")] = None,
    model: Annotated[str, _option("A checkpoint, a hub name, 'base', or a server's address.")] = "base",
    data: Annotated[Path | None, _option("Its file or folder; else SACCADE_DATA/NAME, else the hub.")] = None,
    images: Annotated[Path | None, _option("What image names are relative to.", metavar="DIR")] = None,
    format: Annotated[str | None, _option("Of benchmark jsonl: a format of docs/data.md.")] = None,
    subset: Annotated[str | None, _option("Such as 'Vision Only' or testmini.")] = None,
    mode: Annotated[str | None, _option("How replies are graded: official, strict, ...")] = None,
    prompt: Annotated[str | None, _option("One of the benchmark's wordings.")] = None,
    template: Annotated[str | None, _option("A training template around that wording.")] = None,
    limit: Annotated[int | None, _option("So many items, drawn once and for all.", min=1)] = None,
    decoding: Annotated[str, _option("greedy, sampled, or vision_r1 (T 0.6, top_p 0.95, 16000 tokens).")] = "greedy",
    k: Annotated[int, _option("Replies per item when sampling.", min=1)] = 1,
    max_new_tokens: Annotated[int | None, _option("The cap on a reply; 1024 unless told.", min=1)] = None,
    temperature: Annotated[float | None, _option("Of sampling; 1 unless told.")] = None,
    top_p: Annotated[float | None, _option("Of sampling; 1 unless told.")] = None,
    top_k: Annotated[int, _option("Of sampling; 0 keeps all.", min=0)] = 0,
    seed: Annotated[int, _option("Of sampling.")] = 0,
    batch_size: Annotated[int, _option("Items asked and written at a time.", min=1)] = 32,
    retries_until_parsed: Annotated[
        int, _option("Attempts in all until a reply holds </answer>; Vision-R1's evaluation used 5.", min=1)
    ] = 1,
    judge: Annotated[str | None, _option("Address of a judge for official modes.", metavar="URL")] = None,
    judge_model: Annotated[str | None, _option("The judge's name at its server.")] = None,
    served_name: Annotated[str | None, _option("What the server calls the model.")] = None,
    frame: Annotated[str | None, _option("What a served model's box numbers mean: thousand, unit, ...")] = None,
    resize: Annotated[str | None, _option("FACTOR,MIN,MAX pixels of the server, for pixels_resized.")] = None,
    label: Annotated[str, _option("Column `model` of the results.")] = "model",
    dtype: Annotated[str, _option("Of a local model: float32, bfloat16.")] = "float32",
    device: Annotated[str, _option("Of a local model: auto, cpu, cuda.")] = "auto",
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="Two runs' directories: their paired difference.")
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List the benchmarks and stop.")] = False,
    describe: Annotated[str | None, typer.Option(metavar="NAME", help="A benchmark's rules; 'all' for all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results or comparison as JSON.")] = False,
) -> None:
    """Evaluate a model; stopped and started again with the same recipe or options, it goes on where it was."""
    given = locals()
    _refuse_idle(context, recipe, benchmark, compare, model)
    if list_all or describe:
        _describe(describe)
    elif compare:
        _compare(*compare, as_json)
    elif benchmark is None and recipe is None:
        raise ValueError("give a RECIPE, or --benchmark NAME (--list shows them), or --compare A B")
    elif benchmark is None:
        _run_recipe(str(recipe), overrides, out, print_config, as_json)
    else:
        if recipe is not None:
            raise ValueError(f"got both RECIPE {recipe!r} and --benchmark {benchmark!r}; give one of them")
        keys = ("model", "data", "images", "format", "subset", "mode", "prompt", "limit", "label", "judge")
        keys += ("judge_model", "served_name", "frame", "dtype", "device", "retries_until_parsed")
        fields: dict[str, Any] = {key: given[key] for key in keys} | {"benchmark": benchmark}
        drawn = {key: given[key] for key in ("k", "top_k", "seed", "batch_size", "template")}
        caps = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        fields["decoding"] = _decoding(decoding, {**drawn, **{n: v for n, v in caps.items() if v is not None}})
        fields["data"] = data or _at_hand(benchmark)
        if resize is not None:
            if frame != "pixels_resized":
                raise ValueError("--resize is for --frame pixels_resized; leave it out")
            fields["resize"] = _three(resize)
        fields["out"] = str(out or Path("runs") / "eval" / f"{benchmark}-{label}")
        _run_benchmark(fields, print_config, as_json)


_ANYWHERE = {"out", "print_config", "as_json"}
_OF_SERVERS = {"served_name", "frame", "resize"}
_OF_LOCAL = {"dtype", "device"}


def _refuse_idle(
    context: typer.Context, recipe: str | None, benchmark: str | None, compare: tuple[Path, Path] | None, model: str
) -> None:
    """ValueError for options that would do nothing here."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    told = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    if benchmark is None:
        allowed = _ANYWHERE | ({"compare"} if compare else {"recipe", "overrides", "list_all", "describe"})
        idle, why = told - allowed, "are for --benchmark" if recipe or not compare else "mean nothing to --compare"
    else:
        served = model.startswith(("http://", "https://"))
        idle = told & (_OF_LOCAL if served else _OF_SERVERS)
        why = "are for a local model" if served else "are for a model at an address"
    if idle:
        names = ", ".join("--" + name.replace("_", "-") for name in sorted(idle))
        raise ValueError(f"{names} {why}; leave them out")


def _at_hand(benchmark: str) -> Path | None:
    """The benchmark's folder in SACCADE_DATA, if it is there: local files go before the hub."""
    folder = Path(variables()["SACCADE_DATA"]) / benchmark
    return folder if folder.is_dir() else None


DECODINGS: dict[str, dict[str, Any]] = {
    "greedy": {"name": "greedy", "max_new_tokens": 1024},
    "sampled": {"name": "sampled", "max_new_tokens": 1024},
    "vision_r1": {"name": "sampled", "temperature": 0.6, "top_p": 0.95, "max_new_tokens": 16_000},
}


def _decoding(name: str, given: dict[str, Any]) -> dict[str, Any]:
    if name not in DECODINGS:
        raise ValueError(f"--decoding is {name!r}; expected one of {', '.join(DECODINGS)}")
    idle = sorted(given.keys() & {"temperature", "top_p"}) + ["top_k"] * bool(given["top_k"])
    if name == "greedy" and idle:
        raise ValueError(f"{', '.join(idle)} mean nothing to greedy decoding; add --decoding sampled")
    return DECODINGS[name] | given


def _three(text: str) -> list[int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"--resize is {text!r}; expected three whole numbers such as 28,3136,12845056")
    return [int(part) for part in parts]


def _describe(name: str | None) -> None:
    from saccade.evaluation.benchmarks import BENCHMARKS, pages

    if name is None:
        typer.echo(pages.table(BENCHMARKS))
    elif name == "all":
        typer.echo(pages.page(BENCHMARKS))
    elif name in BENCHMARKS:
        typer.echo(pages.section(BENCHMARKS[name]))
    else:
        raise ValueError(f"there is no benchmark {name!r}; expected one of {', '.join(BENCHMARKS)}")


def _compare(left: Path, right: Path, as_json: bool) -> None:
    from saccade.evaluation.benchmark_results import compare_runs, comparison_lines

    found = compare_runs(left, right)
    typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(comparison_lines(found)))


def _run_recipe(recipe: str, overrides: list[str] | None, out: Path | None, print_config: bool, as_json: bool) -> None:
    from rich.progress import Progress

    from saccade.evaluation.config import EvalRecipe

    if kind(recipe) == "benchmark":
        from saccade.evaluation.config import BenchmarkRecipe

        _finish(resolve(recipe, BenchmarkRecipe, with_out(overrides, out), print_config), as_json)
        return
    config = resolve(recipe, EvalRecipe, with_out(overrides, out), print_config)
    from transformers.utils import logging as transformers_logging

    from saccade.evaluation.recipe import run_eval

    transformers_logging.disable_progress_bar()
    with Progress(transient=True) as bars:
        tasks = {name: bars.add_task(name, total=None) for name in config.decoding}
        path = run_eval(config, lambda name, done, total: bars.update(tasks[name], completed=done, total=total))
    results = json.loads(path.read_text(encoding="utf-8"))
    typer.echo(json.dumps(results, indent=1) if as_json else "\n".join(map(_row, results["rows"])))
    typer.echo(str(path), err=as_json)


def _row(row: dict[str, Any]) -> str:
    """A row of results.json as a line of the table: accuracy with its 95% interval, in percent."""
    accuracy, low, high = (100 * row[key] for key in ("accuracy", "low", "high"))
    interval = f"{accuracy:5.1f} [{low:.1f}, {high:.1f}]"
    cut = f"   truncated {row['truncated']:.0%}" if row["truncated"] else ""
    return f"{row['decoding']:8} {row['split']:16} {row['task']:14} {interval:20} n {row['n']}{cut}"


def _run_benchmark(fields: dict[str, Any], print_config: bool, as_json: bool) -> None:
    from pydantic import ValidationError

    from saccade.evaluation.config import BenchmarkRecipe

    try:
        recipe = BenchmarkRecipe.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{f'--{where}: ' if where else ''}{first['msg'].removeprefix('Value error, ')}") from None
    if print_config:
        typer.echo(dump(recipe), nl=False)
    else:
        _finish(recipe, as_json)


def _finish(recipe: BenchmarkRecipe, as_json: bool) -> None:
    """Runs a benchmark and says what came of it. The keys of servers come from the environment."""
    from rich.progress import Progress
    from transformers.utils import logging as transformers_logging

    from saccade.evaluation.benchmark_results import lines
    from saccade.evaluation.benchmarking import run_benchmark
    from saccade.evaluation.benchmarks import BENCHMARKS

    key = os.environ.get("OPENAI_API_KEY")
    judge_key = os.environ.get("JUDGE_API_KEY", key)
    transformers_logging.disable_progress_bar()
    with Progress(transient=True) as bars:
        task = bars.add_task(recipe.benchmark, total=None)
        results = run_benchmark(
            recipe, lambda done, total: bars.update(task, completed=done, total=total), key, judge_key
        )
    said = lines(results, BENCHMARKS[recipe.benchmark])
    typer.echo(json.dumps(results, indent=1) if as_json else "\n".join([*said, str(Path(recipe.out) / "results.json")]))
