"""`saccade coldstart`: from images with questions to chains of thought, with two teachers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from saccade.cli.options import AsJson, OutKey, Overrides, PrintConfig, Recipe, resolve, with_out
from saccade.cli.terminal import echo, echo_json
from saccade.runs.stopping import interruptible

if TYPE_CHECKING:
    from saccade.coldstart.recipe import ColdStartRecipe

WORLD = ["vision={teacher: world}", "reasoner={teacher: world}"]


def coldstart(
    recipe: Recipe,
    overrides: Overrides = None,
    out: OutKey = None,
    teacher: Annotated[
        Literal["world"] | None,
        typer.Option(help="'world': oracle teachers of the procedural world instead of the recipe's."),
    ] = None,
    as_json: AsJson = False,
    print_config: PrintConfig = False,
) -> None:
    """Make a cold-start set by modality bridging; rerun with the same recipe to resume."""
    from saccade.coldstart.recipe import ColdStartRecipe

    given = [*(WORLD if teacher == "world" else ()), *with_out(overrides, out)]
    config = resolve(recipe, ColdStartRecipe, given, print_config)
    from saccade.coldstart.run import run
    from saccade.coldstart.statistics import write_statistics
    from saccade.report.coldstart_page import build_page

    with interruptible(f"stopped; every reply so far is kept in {config.out}; continue with the same command"):
        summary = run(config, keys_of(config))
    lines = lines_of(summary, config)
    if "writes_the_set" not in summary:
        write_statistics(config.out)
        lines.append(f"page: {build_page(config.out)}")
    if as_json:
        echo_json(summary)
        return
    for line in lines:
        echo(line)


def keys_of(config: ColdStartRecipe) -> dict[str, str]:
    """The API keys named in the recipe, from the environment; they are used only in requests."""
    names = {getattr(teacher, "key_variable", "") for teacher in (config.vision, config.reasoner)}
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def lines_of(summary: Mapping[str, Any], config: ColdStartRecipe) -> list[str]:
    """The summary printed at the end."""
    if "writes_the_set" in summary:
        return [f"{config.out}: the rows are done; {summary['writes_the_set']} wrote the set"]
    rows, written = summary["rows"], summary["written"]
    lines = [
        f"{config.out}: {rows['done']:,} of {rows['all']:,} rows done, {written.get('in the set', 0):,} in the set "
        f"({summary['chains'].get('in the set', 0):,} chains)",
        "reasoner right: " + ", ".join(f"{name} {written.get(name, 0):,}" for name in ("easy", "mixed", "hard")),
    ]
    if summary["rejected"]:
        lines.append("rejected: " + ", ".join(f"{why} {n:,}" for why, n in summary["rejected"].items()))
    if summary["left_out"]:
        why = ", ".join(f"{reason} {n:,}" for reason, n in summary["left_out"].items())
        lines.append(f"failed or skipped: {why} (left_out.jsonl; retriable failures are retried in the next run)")
    tokens = sum(stage["tokens_in"] + stage["tokens_out"] for stage in summary["stages"].values())
    cost = sum(stage["cost"] for stage in summary["stages"].values())
    lines.append(f"{tokens:,} tokens, cost {cost:.2f}")
    return lines + accuracy_lines(summary["accuracy"])


def accuracy_lines(accuracy: Mapping[str, Any]) -> list[str]:
    """The accuracy of each arm, if the recipe has an ablation."""
    if not accuracy:
        return []
    lines = [f"reasoner's accuracy on the same {accuracy['n']:,} rows, 95 % intervals:"]
    names = {"bridged": "bridged description", "caption": "plain caption of the same budget", "none": "nothing"}
    for arm, name in names.items():
        one = accuracy[arm]
        lines.append(f"  {name:<33} {one['accuracy']:.3f} [{one['low']:.3f}, {one['high']:.3f}]")
    gap = accuracy["bridged - caption"]
    lines.append(f"  bridged - caption                 {gap['difference']:.3f} [{gap['low']:.3f}, {gap['high']:.3f}]")
    return lines
