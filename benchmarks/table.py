"""What every benchmark program shares at its two ends: options, and rows as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Cost, one_thread, peak_gauge

PACKAGES = ("saccade", "torch", "transformers", "trl", "vllm", "numpy")


@dataclass(frozen=True, slots=True)
class Row:
    """One arm in one setting."""

    setting: str
    arm: str
    cpu_seconds: float
    peak_mb: float
    ratio: float
    """CPU seconds of the arm that this one is compared with / its own; 1 for that arm itself."""
    path: str
    """Which path ran, as seen from what the model was given, not from what was asked for."""
    more: dict[str, Any] = field(default_factory=dict)
    """What only this program has: ratio_mb, target, images, row_steps, ..."""

    def as_dict(self) -> dict[str, Any]:
        keys = ("setting", "arm", "cpu_seconds", "peak_mb", "ratio", "path")
        return {key: getattr(self, key) for key in keys} | self.more


def row(setting: str, arm: str, cost: Cost, against: Cost, path: str, **more: Any) -> Row:
    """A row from the medians of an arm and of the one it is compared with. `range` holds the least and the greatest
    ratio of two runs that followed each other: how far other work on the machine has moved them."""
    ratio = against.cpu_seconds / cost.cpu_seconds
    pairs = [b.cpu_seconds / a.cpu_seconds for a, b in zip(cost.runs, against.runs, strict=True)]
    more = {
        "range": f"{min(pairs):.2f}-{max(pairs):.2f}",
        "ratio_mb": round(against.peak_mb / max(cost.peak_mb, 1e-9), 3),
        "runs": len(cost.runs),
    } | more
    return Row(setting, arm, round(cost.cpu_seconds, 4), round(cost.peak_mb, 2), round(ratio, 3), path, more)


def options(about: str) -> argparse.ArgumentParser:
    """--quick, --json, --repeats; programs add their own."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny settings: shows that it runs, measures nothing")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--repeats", type=int, help="measured runs of each arm (default 3; 1 with --quick)")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked; sets one thread. `repeats` is a number afterwards."""
    args = parser.parse_args(argv)
    if args.repeats is None:
        args.repeats = 1 if args.quick else 3
    if args.repeats < 1:
        parser.error(f"--repeats: got {args.repeats}; expected at least 1")
    for name in ("json", "plot"):
        path = getattr(args, name, None)
        if path is not None and not path.parent.is_dir():
            parser.error(f"--{name}: there is no directory {path.parent}; make it first")
    one_thread()
    transformers.utils.logging.disable_progress_bar()
    return args


def environment() -> dict[str, Any]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "packages": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "memory": peak_gauge().method,
    }


def show(title: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> None:
    """The rows as a table on the terminal, each arm's paths below it, then the notes."""
    extra = list(dict.fromkeys(key for one in rows for key in one.more))
    table = Table(title=title)
    columns = ("setting", "arm", "cpu_seconds", "peak_mb", "ratio", *extra, "path")
    for name in columns:
        table.add_column(name, justify="left" if name in ("setting", "arm", "path") else "right", overflow="fold")
    for one in rows:
        values = one.as_dict() | {"path": one.path.split(" (")[0]}
        table.add_row(*(_cell(values.get(name)) for name in columns))
    console = Console(width=None if Console().is_terminal else 220)
    console.print(table)
    for one in rows:
        console.print(f"{one.arm}, {one.setting}: {one.path}", highlight=False, style="dim", soft_wrap=True)
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def finish(program: str, args: argparse.Namespace, rows: Sequence[Row], notes: Sequence[str] = ()) -> None:
    """Shows the rows and, with --json, writes them beside what they were measured with."""
    title = f"{program}{' (quick: no measurement)' if args.quick else ''}"
    show(title, rows, notes)
    if args.json:
        content = {
            "program": program,
            "quick": args.quick,
            "repeats": args.repeats,
            "environment": environment(),
            "rows": [one.as_dict() for one in rows],
            "notes": list(notes),
        }
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
