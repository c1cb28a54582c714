"""Every fault as a program, in one table: what is injected, what is expected, what was seen.

    python -m benchmarks.faults                 # all faults, about half an hour on two cores
    python -m benchmarks.faults --only rows     # one subject
    python -m benchmarks.faults --soak 30       # a run of 30 minutes: memory, descriptors, threads, children

Each fault is a test (its name says what is expected, its parameter what is injected), so that the table and the tests
cannot differ. The exit status is 1 if any line is red.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).parent.parent
SUBJECTS: dict[str, tuple[str, ...]] = {
    "rows": (
        "test_hostile_rows.py",
        "test_hostile_sizes.py",
        "test_hostile_tables.py",
        "test_hostile_values.py",
        "test_data_images.py",
        "test_data_hub.py",
        "test_data_kept.py",
        "test_data_parquet.py",
    ),
    "text": ("test_text_is_linear.py", "test_parsing_total.py", "test_rewards_fuzz.py"),
    "own rewards": ("test_rewards_hostile.py", "test_rewards_own.py"),
    "servers": (
        "test_endpoint.py",
        "test_coldstart_hostile.py",
        "test_evaluation_served.py",
        "test_evaluation_judges.py",
        "test_coldstart_faults.py",
        "test_coldstart_store.py",
        "test_rollout_vllm.py",
    ),
    "checkpoints of others": ("test_hostile_checkpoints.py", "test_hostile_shards.py"),
    "terminal": ("test_cli_terminal.py",),
    "runs and recipes": ("test_hostile_runs.py",),
    "trust and secrets": ("test_trust.py", "test_secrets.py"),
    "stopping and disk": ("test_runs_lock.py", "test_runs_stopping.py", "test_runs_checkpoints.py", "test_disk.py"),
    "killed anywhere": ("test_runs_any_recipe.py",),
    "changed under a run": ("test_runs_streams.py", "test_runs_changed_images.py", "test_runs_pending.py"),
}
"""Subject -> files of tests whose every case is a fault."""
SAMPLE_S, FEWEST_STEPS = 5.0, 200


def faults(subject: str) -> list[tuple[str, str, str, str]]:
    """(subject, injected, expected, seen) of every fault of a subject; 'as expected' or the first line of the error."""
    files = [str(ROOT / "tests" / name) for name in SUBJECTS[subject] if (ROOT / "tests" / name).is_file()]
    if not files:
        raise SystemExit(f"benchmarks.faults: no test of subject {subject!r} is there")
    options = ("-q", "-p", "no:cacheprovider", "-m", "slow or not slow", "--timeout", "7200")  # as make test-slow
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.xml"
        command = [sys.executable, "-m", "pytest", *options]
        subprocess.run([*command, f"--junitxml={out}", *files], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        cases = ET.parse(out).getroot().iter("testcase")
        return [_line(subject, case) for case in cases]


def _line(subject: str, case: ET.Element) -> tuple[str, str, str, str]:
    name, _, injected = case.get("name", "").partition("[")
    expected = name.removeprefix("test_").replace("_", " ")
    failed = [part for kind in ("failure", "error") for part in case.findall(kind)]
    skipped = case.find("skipped")
    seen = "as expected"
    if failed:
        seen = f"RED: {(failed[0].get('message') or 'failed').splitlines()[0][:120]}"
    elif skipped is not None:
        seen = f"not run: {(skipped.get('message') or '').splitlines()[0][:80]}"
    return subject, injected.removesuffix("]") or "(in the name)", expected, seen


def show(lines: Iterable[tuple[str, str, str, str]]) -> int:
    """Prints the table as its lines come; returns the number of red ones."""
    print("| subject | injected | expected | seen |\n|---|---|---|---|")
    seen = []
    for line in lines:
        cells = (cell.encode("ascii", "backslashreplace").decode().replace("|", "/")[:160] for cell in line)
        print(f"| {' | '.join(cells)} |", flush=True)
        seen.append(line[3])
    red, not_run = (sum(one.startswith(word) for one in seen) for word in ("RED", "not run"))
    print(f"\n{len(seen)} faults, {red} red, {not_run} not run")
    return red


RECIPE = """kind: rl
model: {{path: base, device: cpu}}
data: [{{source: world, task: count}}]
rubrics: {{own: {{parts: [{{name: '{reward}:half'}}]}}}}
stages: [{{max_new_tokens: 16, group_size: 4, rubric: own}}]
num_steps: 1000000
prompts_per_step: 4
optim: {{lr: 1.0e-5}}
checkpoint: {{every: 20}}
"""


def soak(minutes: float) -> int:
    """A run for so long; prints what grew. Returns 1 when memory, descriptors, threads or children did."""
    with tempfile.TemporaryDirectory() as folder:
        reward = Path(folder) / "own.py"
        reward.write_text("def half(completion, sample):\n    return float(len(completion.text) % 2)\n")
        (Path(folder) / "r.yaml").write_text(RECIPE.format(reward=reward))
        command = [sys.executable, "-m", "saccade", "rl", f"{folder}/r.yaml", "--out", f"{folder}/run"]
        process = psutil.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        until, seen = time.monotonic() + 60 * minutes, []
        while time.monotonic() < until and process.poll() is None:
            time.sleep(SAMPLE_S)
            with process.oneshot():
                children = process.children(recursive=True)
                seen.append((process.memory_info().rss / 1e6, process.num_fds(), process.num_threads(), len(children)))
        ended, metrics = process.poll(), Path(folder) / "run" / "metrics.jsonl"
        steps = metrics.read_text().count("\n") if metrics.is_file() else 0
        process.terminate()
        process.wait(60)
    settled = np.array(seen[len(seen) // 3 :], dtype=float)
    if ended is not None or len(settled) < 6:
        print(f"the run ended by itself with status {ended} after {len(seen)} samples")
        return 1
    if steps < FEWEST_STEPS:
        print(f"only {steps} steps in {minutes:g} minutes: too few to judge; expected {FEWEST_STEPS} at least")
        return 1
    hours = np.arange(len(settled)) * SAMPLE_S / 3600
    slope = float(np.polyfit(hours, settled[:, 0], 1)[0])
    first, last = settled[: len(settled) // 4], settled[-(len(settled) // 4) :]
    low, high = settled[:, 0].min(), settled[:, 0].max()
    print(f"{steps} steps, memory {low:.0f} to {high:.0f} MB, slope {slope:+.1f} MB an hour")
    grown = last[:, 0].mean() - first[:, 0].mean() > 0.05 * first[:, 0].mean()
    for place, what in enumerate(("descriptors", "threads", "children"), 1):
        print(f"{what}: {settled[:, place].min():.0f} to {settled[:, place].max():.0f}")
        grown = grown or bool(np.median(last[:, place]) > np.median(first[:, place]))
    return int(grown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(SUBJECTS), action="append", help="these subjects only")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="instead of the table: one long run")
    given = parser.parse_args()
    if given.soak:
        sys.exit(soak(given.soak))
    sys.exit(bool(show(line for subject in given.only or SUBJECTS for line in faults(subject))))


if __name__ == "__main__":
    main()
