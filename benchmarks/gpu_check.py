"""Nine minutes on a GPU: is it correct there, how fast is it, does the plan hold?

    make gpu-check                                       # or: python -m benchmarks.gpu_check --out runs/gpu-check
    python -m benchmarks.gpu_check --out DIR --rehearse  # the same on a CPU with tiny shapes, in some minutes

Every step is a process of its own with its own time limit, in order of worth; the limits sum up to nine minutes. A step
that fails, runs out of time or memory, or is skipped does not stop the next. Rows go to DIR/rows.jsonl as they are
measured, what the steps print to DIR/log.txt, and DIR/table.md is written anew after every step. The status is 1 when a
step failed. Nothing is downloaded. docs/gpu.md says what is reported and which wheels to bring.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
FOR_TESTS = {"pytest", "pytest-timeout", "hypothesis", "peft"}
"""Of the extras; without TRL its step is skipped."""


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    limit_s: float
    what: str


STEPS = (
    Step("card", 25, "the card, and what a matrix product and a copy reach on it"),
    Step("tests", 105, "tests marked gpu: attention forms, recorded steps, fused layers, every code path by family"),
    Step("grpo_3b", 110, "training pass, decoding, whole GRPO step at the 3B shape, beside the plan"),
    Step("trl_3b", 75, "TRL's whole step on the same"),
    Step("lora_3b", 45, "the whole step with LoRA, 3B shape"),
    Step("lora_7b", 55, "the whole step with LoRA, 7B shape"),
    Step("replies_8k", 125, "replies of 8,192 tokens: an update, and rollouts with that cap"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    step: Step
    status: str
    """done, failed (with the exit status), stopped at its limit, or not started."""
    seconds: float

    @property
    def failed(self) -> bool:
        return not self.status.startswith(("done", "not started"))


def missing_packages() -> list[str]:
    """What the package, its tests and adapters need and is not there, or is there in a version that does not fit."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    needed = [Requirement(line) for line in [*project["dependencies"], *project["optional-dependencies"]["train"]]]
    needed += [one for one in map(Requirement, extras) if one.name in FOR_TESTS]
    return sorted(
        {f"{one.name} {one.specifier} (got {version_of(one.name) or 'none'})" for one in needed if not met(one)}
    )


def version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def met(requirement: Requirement) -> bool:
    version = version_of(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def command_of(step: Step, out: Path, rehearse: bool) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.gpu_steps", step.name, "--out", str(out)]
    return [*command, "--rehearse"] if rehearse else command


def run_step(step: Step, command: Sequence[str], out: Path, limit_s: float) -> Outcome:
    """Runs a step's command in a process group of its own, which is killed at its limit."""
    began = time.perf_counter()
    with (out / "log.txt").open("ab") as log:
        log.write(f"\n===== {step.name}\n".encode())
        log.flush()
        child = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = child.wait(timeout=limit_s)
            status = "done" if code == 0 else f"failed (exit status {code}; see log.txt)"
        except subprocess.TimeoutExpired:
            status = f"stopped at its limit of {limit_s:.0f} s"
        finally:
            kill(child)
    return Outcome(step, status, time.perf_counter() - began)


def kill(child: subprocess.Popen[bytes]) -> None:
    """The whole group, workers of data and tests included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def read_rows(out: Path) -> list[dict[str, Any]]:
    """A last line that was cut by a kill is dropped."""
    rows = []
    path = out / "rows.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


COLUMNS = ("seconds", "ratio", "tokens_per_s", "utilization", "peak_gb", "planned_gb", "plan_error")


def table(rows: Sequence[dict[str, Any]], outcomes: Sequence[Outcome], title: str) -> str:
    """Markdown: how each step ended, then what it measured. Tests are counted, and named only when they failed."""
    lines = [f"# {title}", "", "| step | outcome | seconds | what |", "|---|---|---|---|"]
    lines += [f"| {o.step.name} | {o.status} | {o.seconds:.0f} | {o.step.what} |" for o in outcomes]
    tests = [row for row in rows if row["what"] == "test"]
    if tests:
        counts = {kind: sum(row["outcome"] == kind for row in tests) for kind in ("passed", "failed", "skipped")}
        lines += ["", "Tests: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()) + "."]
        lines += [f"- {row['outcome']}: {row['arm']}: {row.get('note', '')}" for row in tests if row.get("note")]
    lines += ["", f"| step | setting | what | arm | {' | '.join(COLUMNS)} |", "|---" * (4 + len(COLUMNS)) + "|"]
    for row in with_trl_ratio(rows):
        if row["what"] != "test":
            arm = f"skipped: {row['skipped']}" if "skipped" in row else row.get("arm", "")
            arm += f" ({row['note']})" if "note" in row else ""
            words = (row["step"], row.get("setting", ""), row["what"], arm)
            lines.append(f"| {' | '.join((*words, *(cell(name, row) for name in COLUMNS)))} |")
    return "\n".join(lines) + "\n"


def with_trl_ratio(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ratio of our whole step is TRL's seconds / its own."""
    peer = next((row["seconds"] for row in rows if row["step"] == "trl_3b" and "seconds" in row), math.nan)
    ours = [row["step"] == "grpo_3b" and row["what"].startswith("whole step") for row in rows]
    return [
        row | {"ratio": peer / row["seconds"]} if mine and "seconds" in row else row
        for row, mine in zip(rows, ours, strict=True)
    ]


def cell(name: str, row: dict[str, Any]) -> str:
    value = row.get(name)
    if name == "peak_gb" and value is None and "peak_gib" in row:
        value = row["peak_gib"] * 2**30 / 1e9
    if value is None or not math.isfinite(value):
        return ""
    if name in ("utilization", "plan_error"):
        return f"{value:.1%}" if name == "utilization" else f"{value:+.0%}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def chosen(names: Sequence[str] | None) -> list[Step]:
    return [step for step in STEPS if not names or step.name in names]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new directory for rows.jsonl, table.md and log.txt")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on a CPU, each step with all its time")
    parser.add_argument("--only", action="append", choices=[s.name for s in STEPS], help="this step (may be repeated)")
    parser.add_argument("--seconds", type=float, default=540.0, help="limit of all steps together (default: 540)")
    args = parser.parse_args(argv)
    if missing := missing_packages():
        parser.error(f"missing packages: {', '.join(missing)}; docs/gpu.md says how to bring their wheels")
    if not args.rehearse:
        import torch

        if not torch.cuda.is_available():
            parser.error("no GPU is visible to torch; --rehearse runs everything on the CPU with tiny shapes")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        parser.error(f"--out {args.out}: already there; give a new directory, or remove it")
    args.out.mkdir(parents=True, exist_ok=True)
    began, outcomes = time.perf_counter(), list[Outcome]()
    title = "GPU check, rehearsed on a CPU with tiny shapes" if args.rehearse else "GPU check"
    for step in chosen(args.only):
        left = math.inf if args.rehearse else args.seconds - (time.perf_counter() - began)
        limit_s = min(step.limit_s * (20 if args.rehearse else 1), left)
        command = command_of(step, args.out, args.rehearse)
        outcome = run_step(step, command, args.out, limit_s) if limit_s > 5 else Outcome(step, "not started", 0)
        outcomes.append(outcome)
        print(f"{step.name}: {outcome.status}, {outcome.seconds:.0f} s", flush=True)
        (args.out / "table.md").write_text(table(read_rows(args.out), outcomes, title), encoding="utf-8")
    print((args.out / "table.md").read_text(encoding="utf-8"))
    return int(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
