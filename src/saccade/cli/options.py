"""What verbs that run a recipe have in common: RECIPE, dotted overrides, --print-config."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from saccade import schemas
from saccade.cli.terminal import echo_json, echo_whole
from saccade.config import Config, dump, load
from saccade.disk import write_text
from saccade.runs.files import BLIND_ITEMS, ITEMS, UNJUDGED
from saccade.runs.lock import LOCK
from saccade.runs.streams import STREAMS

Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a packaged recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides of the recipe: part.key=VALUE, part.0.key=VALUE"),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="The run's directory; default: runs/<name of the recipe>.")
]
OutKey = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The same as out=DIR.")]
"""For recipes with their own key `out`."""
ColumnNames = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="KEY=NAME",
        help="Format table: the name of a column, such as question=prompt; repeat it for others, or for several names.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", metavar="DIR", help="Folder that all images must be in, / for any; see docs/data.md."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text and tables.")]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="[FILE]",
        help="Print one JSON object instead of text and tables; with FILE, write it there beside them.",
    ),
]
"""Of verbs whose JSON is also wanted as a file; without FILE it is `STDOUT` (`hints.Verb`)."""
STDOUT = Path("-")
RUN_FILES = frozenset(
    {*STREAMS, LOCK, ITEMS, BLIND_ITEMS, UNJUDGED, "config.yaml", "environment.json", "job.json", "study.json"}
    | {".safetensors", ".sqlite", ".pt"}
)
"""Names and ends of names of files that a run is resumed from, or read by; so are all of a checkpoint."""
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the resolved recipe and stop.")]

T = TypeVar("T", bound=Config)

VARIABLES = {"SACCADE_DATA": "../shared/data"}
"""Variables that recipes may use as ${NAME}, with their defaults when the environment has none."""


def variables() -> dict[str, str]:
    """The variables of recipes, from the environment."""
    return {name: os.environ.get(name, default) for name, default in VARIABLES.items()}


def columns_of(pairs: Sequence[str]) -> dict[str, str | list[str]]:
    """`columns` of a source `table` from KEY=NAME, repeated for several names. ValueError for anything else."""
    names: dict[str, list[str]] = {}
    for pair in pairs:
        key, equals, name = pair.partition("=")
        if not equals or not key or not name:
            raise ValueError(f"--column {pair}: expected KEY=NAME, such as question=prompt")
        names.setdefault(key, []).append(name)
    return {key: found[0] if len(found) == 1 else found for key, found in names.items()}


def load_recipe(path: str, overrides: Sequence[str] = ()) -> Config:
    """A recipe of any kind, with the variables of the environment."""
    return schemas.load_recipe(path, overrides, variables())


def with_out(overrides: list[str] | None, out: Path | None) -> list[str]:
    """The overrides of a recipe that has a key `out` itself, with `--out` as one of them."""
    return [*(overrides or ()), *([] if out is None else [f"out={json.dumps(str(out))}"])]


def refuse_run_file(option: str, file: Path | None) -> None:
    """ValueError, before any work, where an output would take the place of a file that is a run's own, or links to
    one."""
    places = () if file is None or not file.exists() else (file.absolute(), file.resolve())
    if any({one.name, one.suffix} & RUN_FILES or (one.parent / "state.json").exists() for one in places):
        raise ValueError(
            f"{option} {file}: that is the name of a file of a run, and there is one; choose another name, or remove "
            "it first"
        )


def check_json(file: Path | None) -> None:
    """ValueError, before any work, for a FILE of `--json` that cannot be written."""
    refuse_run_file("--json", file)
    if file is not None and not file.absolute().parent.is_dir():
        raise ValueError(f"--json {file}: there is no folder {file.absolute().parent}")


def write_json(content: Any, file: Path | None) -> bool:
    """What `--json` asked for. True when it was printed, so that tables are not."""
    if file == STDOUT:
        echo_json(content)
    elif file is not None:
        write_text(file, json.dumps(content, indent=1) + "\n")
    return file == STDOUT


def resolve(recipe: str, schema: type[T], overrides: list[str] | None, print_config: bool = False) -> T:
    """The recipe with its overrides; with `print_config` it is printed as YAML and the program ends."""
    config = load(recipe, schema, overrides or (), variables())
    if print_config:
        echo_whole(dump(config), nl=False)
        raise typer.Exit
    return config
