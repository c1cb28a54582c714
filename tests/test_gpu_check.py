"""`make gpu-check`: what is missing is said first, a step cannot take another's time, and what was measured is kept."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from benchmarks import gpu_check
from benchmarks.gpu_check import Outcome, read_rows, run_step, table
from benchmarks.gpu_steps import STEPS

ROOT = Path(__file__).parent.parent
ON_THE_MACHINE = {"torch", "numpy", "scipy", "pyarrow"}
"""Too large to bring, and part of what comes with PyTorch."""
MEASURED = {
    "card": {"card", "matrix product", "copy"},
    "tests": {"test"},
    "grpo_3b": {"training pass", "rollout", "whole step, AdamW"},
    "trl_3b": {"whole step, AdamW"},
    "lora_3b": {"training pass", "whole step, LoRA rank 64"},
    "lora_7b": {"training pass", "whole step, LoRA rank 64"},
    "replies_8k": {"rollout", "update, LoRA, SGD"},
}
"""Step -> what its rows name."""


def wheels() -> dict[str, str]:
    lines = (ROOT / "benchmarks" / "gpu_wheels.txt").read_text().splitlines()
    pairs = (line.partition("#")[0].strip().split("==") for line in lines if line and not line.startswith("#"))
    return dict(pairs)  # type: ignore[arg-type]  # lists of two


def test_the_wheels_to_bring_are_the_tested_versions_of_all_that_is_needed() -> None:
    listed = wheels()
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert listed == {name: tested[name] for name in listed}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    assert {Requirement(line).name for line in needed} <= listed.keys() | ON_THE_MACHINE
    assert listed.keys() >= gpu_check.FOR_TESTS


def test_the_steps_are_those_that_can_be_run_and_their_limits_are_nine_minutes() -> None:
    assert {step.name for step in gpu_check.STEPS} == STEPS.keys() == MEASURED.keys()
    assert sum(step.limit_s for step in gpu_check.STEPS) == 540


def test_a_step_ends_at_its_limit_and_one_that_fails_says_so(tmp_path: Path) -> None:
    step = gpu_check.STEPS[0]
    stopped = run_step(step, [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path, limit_s=0.01)
    assert stopped.failed and stopped.status.startswith("stopped at its limit")
    failed = run_step(step, [sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path, limit_s=600.0)
    assert failed.failed and failed.status.startswith("failed (exit status 1")
    assert "no such thing" in (tmp_path / "log.txt").read_text()
    assert not Outcome(step, "not started", 0.0).failed


def test_the_table_keeps_what_a_stopped_step_measured_and_compares_with_trl(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": "tests", "what": "test", "arm": "a", "outcome": "passed"},
        {"step": "tests", "what": "test", "arm": "b[bfloat16]", "outcome": "failed", "note": "assert 2 == 1"},
        {"step": "grpo_3b", "what": "whole step, AdamW", "arm": "merged", "seconds": 4.0, "peak_gb": 71.3}
        | {"planned_gb": 78.4, "plan_error": 0.1},
        {"step": "trl_3b", "what": "whole step, AdamW", "arm": "TRL", "seconds": 13.0, "peak_gib": float("nan")},
        {"step": "lora_3b", "what": "whole step, LoRA", "skipped": "no peft"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": "lora_7b", "wh'
    (tmp_path / "rows.jsonl").write_text(text)
    shown = table(read_rows(tmp_path), [Outcome(gpu_check.STEPS[0], "done", 3.0)], "GPU check")
    assert "Tests: 1 passed, 1 failed, 0 skipped." in shown
    assert "- failed: b[bfloat16]: assert 2 == 1" in shown
    assert "| grpo_3b |  | whole step, AdamW | merged | 4 | 3.25 |  |  | 71.3 | 78.4 | +10% |" in shown
    assert "| trl_3b |  | whole step, AdamW | TRL | 13 |" in shown
    assert "skipped: no peft" in shown
    assert "lora_7b" not in shown


def test_what_is_missing_is_said_before_a_step_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def refused(*argv: str) -> str:
        with pytest.raises(SystemExit):
            gpu_check.main(["--out", str(out), *argv])
        assert not out.exists()
        return capsys.readouterr().err

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "no GPU is visible to torch; --rehearse" in refused()
    versions = {"pydantic": None, "transformers": "5.17.0"}
    real = gpu_check.version_of
    monkeypatch.setattr(gpu_check, "version_of", lambda name: versions.get(name, real(name)))
    said = refused("--rehearse")
    assert "pydantic >=2.11 (got none)" in said
    assert "transformers >=5.18 (got 5.17.0)" in said


@pytest.mark.slow
def test_the_whole_check_is_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--rehearse", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + (tmp_path / "out" / "log.txt").read_text()[-4000:]
    rows = read_rows(tmp_path / "out")
    found = {step: {row["what"] for row in rows if row["step"] == step} for step in MEASURED}
    assert found == MEASURED
    skipped = {row["step"] for row in rows if "skipped" in row}
    assert skipped == ({"trl_3b"} if find_spec("trl") is None else set())
    assert all(row["seconds"] > 0 for row in rows if "seconds" in row)
    whole = next(row for row in rows if row["step"] == "grpo_3b" and row["what"].startswith("whole step"))
    assert whole.keys() >= {"planned_gb", "peak_gb", "plan_error", "tokens_per_s", "rollout_s", "update_s"}
    shown = (tmp_path / "out" / "table.md").read_text()
    assert all(f"| {step.name} | done |" in shown for step in gpu_check.STEPS)
    assert "22 passed, 0 failed, 0 skipped" in shown
