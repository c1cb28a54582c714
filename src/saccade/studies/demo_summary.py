"""Terminal summary of the demo: tables of accuracies, then the paired differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from saccade.runs.files import read_json, rows_of


def summary(folder: Path) -> Group:
    """Accuracy of every model and control, then the paired comparisons, read from the files."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    rows = [row for row in results["rows"] if row["task"] == "all"]
    tables = [_table(split, [row for row in rows if row["split"] == split]) for split in _in_order(rows, "split")]
    lines = [Text(f"{_difference(one)}  {one['name']}") for one in found["comparisons"]]
    return Group(*tables, Text("\npaired differences in points on the same questions [95% interval]"), *lines)


def part_summary(directory: Path) -> str:
    """What came out of a part of the demo: held-out accuracy of an evaluation or of an RL run, the loss of SFT."""
    warnings: list[str] = []
    seconds = read_json(directory / "job.json", warnings).get("wall_s", 0.0)
    words = [f"{seconds:.0f} s"]
    if rows := read_json(directory / "free" / "results.json", warnings).get("rows"):
        first = next(row for row in rows if row["task"] == "all" and row["decoding"] == "sampled")
        words.insert(0, f"{100 * first['accuracy']:.1f}% right ({first['split']}, sampled)")
    metrics = list(rows_of(directory / "metrics.jsonl", warnings))
    for key, name, share in (("eval/score", "held-out accuracy", True), ("loss/train", "loss", False)):
        values = [row[key] for row in metrics if key in row]
        if len(values) > 1 and (not share or 0 <= min(values) <= max(values) <= 1):
            ends = [f"{100 * v:.1f}%" if share else f"{v:.3g}" for v in (values[0], values[-1])]
            words.insert(0, f"{name} {ends[0]} to {ends[1]}")
            break
    return ", ".join(words)


def _table(split: str, rows: list[dict[str, Any]]) -> Table:
    """One split: a line per model, and per model forced to a habit."""
    table = Table(title=f"\nheld-out accuracy in percent, {split}", title_justify="left", box=None, pad_edge=False)
    table.add_column("model")
    for column in ("greedy", "sampled", "tokens"):
        table.add_column(column, justify="right")
    cells = {(row["model"], row["control"], row["decoding"]): row for row in rows}
    for model, control in dict.fromkeys((row["model"], row["control"]) for row in rows):
        greedy, sampled = (cells.get((model, control, decoding)) for decoding in ("greedy", "sampled"))
        name = f"{model}, {control}" if control and control.startswith("forced") else model
        table.add_row(name, _cell(greedy), _cell(sampled), f"{sampled['mean_tokens']:.0f}" if sampled else "")
    return table


def _cell(row: dict[str, Any] | None) -> str:
    return f"{100 * row['accuracy']:5.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]" if row else ""


def _difference(one: dict[str, Any]) -> str:
    interval = f"{100 * one['difference']:+6.1f} [{100 * one['low']:+6.1f}, {100 * one['high']:+6.1f}]"
    return interval if one["shown"] else f"{interval} not shown"


def _in_order(rows: list[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))
