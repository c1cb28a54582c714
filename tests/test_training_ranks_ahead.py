"""Two processes with several updates a rollout, replay, KL in the reward, or one step ahead train as one process, which
also resumes what they began."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ahead_worker import RUNS, run
from training_runs import write_world

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


def in_two_processes(folder: Path, name: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = os.pathsep.join([str(HERE.parent / "src"), str(HERE)])
    found = subprocess.run(
        [*command, str(HERE / "ahead_worker.py"), str(folder), name],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert found.returncode == 0, (found.stdout + found.stderr)[-3000:]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(ours: Path, one: Path) -> None:
    for a, b in zip(rows(ours / "rollouts.jsonl"), rows(one / "rollouts.jsonl"), strict=True):
        assert (a["token_ids"], a["weights_version"]) == (b["token_ids"], b["weights_version"])
        assert a["advantage"] == pytest.approx(b["advantage"], abs=1e-4)
    for a, b in zip(rows(ours / "metrics.jsonl"), rows(one / "metrics.jsonl"), strict=True):
        for key in b.keys() - {"stage", "tokens/per_s", "memory/peak_mb", "update/micro_batches"}:
            if not key.startswith(("time/", "sampler/")):
                assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-5), key


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one_which_resumes_what_they_began(name: str, tmp_path: Path) -> None:
    folder = write_world(tmp_path / "ranks")
    run(folder, name, folder / "one")
    in_two_processes(folder, name)
    assert_same(folder / "run", folder / "one")
    shutil.rmtree(folder / "run" / "checkpoints" / "step-000004")
    run(folder, name, folder / "run", resume=True)
    assert_same(folder / "run", folder / "one")
