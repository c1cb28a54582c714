"""Terminal summary of the demo: tables of accuracies, then the paired differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text


def summary(folder: Path) -> Group:
    """Accuracy of every model and control, then the paired comparisons, read from the files."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    rows = [row for row in results["rows"] if row["task"] == "all"]
    tables = [_table(split, [row for row in rows if row["split"] == split]) for split in _in_order(rows, "split")]
    lines = [Text(f"{_difference(one)}  {one['name']}") for one in found["comparisons"]]
    return Group(*tables, Text("\npaired differences in points on the same questions [95% interval]"), *lines)


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
