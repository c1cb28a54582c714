"""Several runs on one page: curves over each other, paired differences on the same questions, what differs in their
recipes, and the questions that only some of them get right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saccade.evaluation.results import comparison_row
from saccade.evaluation.statistics import Comparison, compare_paired
from saccade.report.browser import Groups
from saccade.report.cautions import alarms_of
from saccade.report.curves import overlaid
from saccade.report.headlines import Headline
from saccade.report.heldout import item_data
from saccade.report.hero import hero
from saccade.report.outcome import by_id, percent, points, signed
from saccade.report.page import Page, RunSection, demo_parts
from saccade.report.pictures import Pictures
from saccade.report.tables import differences
from saccade.runs.files import JsonRow, RunFiles, read_run

MISSING = "(not set)"


def several_page(folders: Sequence[Path]) -> Page:
    """The page of two or more runs; of a demo, its RL run. The first is the one that the others are compared with."""
    runs = [read_run(_run_of(folder), ("config.yaml",)) for folder in folders]
    names = names_of(folders)
    last = [_last_items(run) for run in runs]
    pictures = Pictures()
    items = item_data(list(zip(names, runs, last, strict=True)), pictures)
    compared = [
        found
        for name, rows in zip(names[1:], last[1:], strict=True)
        if (found := paired(name, rows, names[0], last[0]))
    ]
    alarms = [(name, alarm) for name, run in zip(names, runs, strict=True) for alarm in alarms_of(run)]
    warnings = [warning for run in runs for warning in run.warnings]
    warnings += [f"{name}: {alarm}" for name, alarm in alarms]
    if not compared:
        warnings.append("the runs have no held-out questions in common, so nothing is compared")
    return Page(
        title=" and ".join(names),
        headline=headline(names, last, compared),
        hero=hero([item for item in items.data if len(item["r"]) == len(runs)], pictures, steps=False),
        alarms=(),
        runs=(RunSection("all runs", overlaid({n: r.metrics for n, r in zip(names, runs, strict=True)})),),
        tables=(),
        attempts=(),
        comparisons=tuple(differences([comparison_row(one) for one in compared])),
        listings=(),
        notes=(),
        groups=Groups([], ""),
        items=items,
        pictures=pictures,
        environment=(),
        configs=tuple((f"{n}/config.yaml", r.config_text) for n, r in zip(names, runs, strict=True) if r.config_text),
        warnings=tuple(dict.fromkeys(warnings)),
        differing=tuple(differing([run.config for run in runs])),
        names=tuple(names),
    )


def _run_of(folder: Path) -> Path:
    parts = demo_parts(folder)
    return parts[0] if parts else folder


def names_of(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart. ValueError when a run is given twice."""
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise ValueError(f"got the same run twice: {', '.join(map(str, folders))}; expected different ones")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _last_items(run: RunFiles) -> list[JsonRow]:
    """Of a training run its last evaluation; of an evaluation its greedy items, or the others without any."""
    if evaluations := run.evaluations():
        return evaluations[-1][1]
    rows = list(run.items())
    return [row for row in rows if row["decoding"] == "greedy"] or rows


def paired(name: str, rows: Sequence[JsonRow], base: str, base_rows: Sequence[JsonRow]) -> Comparison | None:
    """Accuracy of a run minus that of the first, on their common questions; None without any."""
    one, other = by_id(rows), by_id(base_rows)
    common = [key for key in one if key in other]
    if not common:
        return None
    return compare_paired(f"{name} - {base}", [one[key] for key in common], [other[key] for key in common])


def headline(names: Sequence[str], last: Sequence[Sequence[JsonRow]], compared: Sequence[Comparison]) -> Headline:
    """The first pair in words, claiming only what its interval supports."""
    tiles = []
    for name, rows in zip(names, last, strict=True):
        scores = list(by_id(rows).values())
        if scores:
            tiles.append((name, percent(sum(scores) / len(scores)), f"n = {len(scores)}"))
    if not compared:
        return Headline(f"{len(names)} runs side by side", "They share no held-out questions.", tuple(tiles))
    first = compared[0]
    detail = (
        f"Held-out accuracy at the end of each run: {points(first.difference)} (95% interval {signed(first.low)} to "
        f"{signed(first.high)}, the same {first.n} questions, paired)."
    )
    if first.low > 0:
        verdict = f"{names[1]} answers more questions right than {names[0]}"
    elif first.high < 0:
        verdict = f"{names[1]} answers fewer questions right than {names[0]}"
    else:
        verdict = f"No measurable difference between {names[0]} and {names[1]}"
    return Headline(verdict, detail, tuple(tiles))


def differing(configs: Sequence[JsonRow]) -> list[tuple[str, tuple[str, ...]]]:
    """(dotted key, its value in each recipe) where they differ."""
    flat = [dict(_flat(config)) for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = [(key, tuple(one.get(key, MISSING) for one in flat)) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [pair for key, one in value.items() for pair in _flat(one, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
        return [pair for i, one in enumerate(value) for pair in _flat(one, f"{prefix}.{i}")]
    return [(prefix, str(value))]
