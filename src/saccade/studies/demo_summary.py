"""The demo's findings as a table for the terminal."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text


def summary(folder: Path) -> Group:
    """Accuracy of every model and control, then the paired comparisons; only what the files say."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    table = Table(title="held-out accuracy, percent [95% interval]", title_justify="left")
    for column in ("model", "control", "split", "decoding", "accuracy", "tokens", "cut off"):
        table.add_column(column, justify="right" if column in ("accuracy", "tokens", "cut off") else "left")
    for row in results["rows"]:
        if row["task"] == "all":
            interval = f"{100 * row['accuracy']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
            table.add_row(
                row["model"], row["control"] or "", row["split"], row["decoding"], interval,
                f"{row['mean_tokens']:.1f}", f"{100 * row['truncated']:.0f}%",
            )  # fmt: skip
    lines = [Text(f"  {one['name']}: {_difference(one)}") for one in found["comparisons"]]
    return Group(table, Text("paired differences on the same questions, points [95% interval]"), *lines)


def _difference(one: dict) -> str:
    text = f"{100 * one['difference']:+.1f} [{100 * one['low']:+.1f}, {100 * one['high']:+.1f}]"
    return text if one["shown"] else f"{text} not shown"
