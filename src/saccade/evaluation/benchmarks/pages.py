"""The documentation of every benchmark, generated from the table so that it cannot drift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saccade.evaluation.benchmarks.benchmark import Benchmark, Mode

BEGIN, END = "<!-- benchmarks: made by saccade eval --describe -->", "<!-- end of benchmarks -->"


def page(benchmarks: Mapping[str, Benchmark]) -> str:
    """All sections, between their marks."""
    sections = [section(one) for one in benchmarks.values()]
    return "\n\n".join([BEGIN, table(benchmarks), *sections, END])


def facts(benchmarks: Mapping[str, Benchmark]) -> list[dict[str, Any]]:
    """The rows of `table` as plain data."""
    return [
        {"name": one.name, "benchmark": one.title, "modes": list(one.modes), "headline": one.headline.name}
        for one in benchmarks.values()
    ]


def table(benchmarks: Mapping[str, Benchmark]) -> str:
    """A row per benchmark."""
    lines = ["| name | benchmark | modes | headline |", "|---|---|---|---|"]
    for row in facts(benchmarks):
        lines.append(f"| `{row['name']}` | {row['benchmark']} | {', '.join(row['modes'])} | {row['headline']} |")
    return "\n".join(lines)


def section(one: Benchmark) -> str:
    """One benchmark: files, subsets, prompts, modes with their rules and deviations, scores, notes."""
    scores = ", ".join(f"`{score.name}`" for score in one.scores) or "none"
    slices = ", ".join(f"`{name}`" for name in one.slices) or "none"
    parts = [
        f"### `{one.name}`: {one.title}",
        f"Files: {one.layout}",
        f"Subsets: {', '.join(f'`{name}`' for name in one.subsets)}. Prompts: "
        + ", ".join(f"`{name}` ({prompt.id})" for name, prompt in one.prompts.items())
        + ". The first of each is the default.",
        f"Headline: `{one.headline.name}`. Accuracy per: {slices}. Other figures: {scores}.",
    ]
    parts += [_mode(mode) for mode in one.modes.values()]
    if one.notes:
        parts.append("\n".join(f"- {note}" for note in one.notes))
    return "\n\n".join(parts)


def _mode(mode: Mode) -> str:
    verified = "yes" if mode.verified else f"no ({mode.reason})"
    lines = [f"Mode `{mode.name}`, after {mode.source}. Verified against the official script: {verified}.", ""]
    lines += [f"{number}. {rule}" for number, rule in enumerate(mode.rules, 1)]
    if mode.deviations:
        lines += ["", "Deviations:", ""]
        lines += [f"- {deviation}" for deviation in mode.deviations]
    return "\n".join(lines)
