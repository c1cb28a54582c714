"""Rewards inside a run: waiting ones wait together, a hang costs its reply, rows have rewards of their own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from training_runs import rl_recipe, write_world

from saccade.training.rl import train

FILE = """
import asyncio
import time


async def waits(completion, sample):
    await asyncio.sleep(0.5)
    return float(sum(completion.token_ids) % 2)


def hangs_at_times(completion, sample):
    if sum(completion.token_ids) % 4 == 0:
        time.sleep(600)
    return float(sum(completion.token_ids) % 2)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_world(tmp_path_factory.mktemp("world"))
    (folder / "slow.py").write_text(FILE)
    return folder


def rollouts(world: Path, run: Path, part: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    rubrics = {"test": {"parts": [part], "truncated": "as_is"}}
    train(rl_recipe(world, rubrics=rubrics, num_steps=1, **changes), run)
    return [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]


def test_coroutines_of_a_step_wait_together(world: Path, tmp_path: Path):
    start = time.monotonic()
    rows = rollouts(world, tmp_path / "run", {"name": f"{world / 'slow.py'}:waits"})
    metrics = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert len(rows) == 16 and all(row["masked"] is None for row in rows)
    assert [row["reward"] for row in rows] == [float(sum(row["token_ids"]) % 2) for row in rows]
    assert metrics["time/rollout_s"] < 16 * 0.5 * 0.8
    assert time.monotonic() - start < 60


def test_a_hang_masks_its_own_reply_and_the_run_goes_on(world: Path, tmp_path: Path):
    part = {"name": f"{world / 'slow.py'}:hangs_at_times", "deadline_s": 0.4}
    rows = rollouts(world, tmp_path / "run", part, rollout={"max_failed_share": 0.9})
    hung = [sum(row["token_ids"]) % 4 == 0 for row in rows]
    assert 0 < sum(hung) < 16
    assert [row["masked"] is not None for row in rows] == hung
    assert all("no answer in 0.4 s" in row["masked"] for row in rows if row["masked"])
    assert all(row["advantage"] == 0.0 for row in rows if row["masked"])
    metrics = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert metrics["rollouts/failed"] == sum(hung) / 16


def test_a_row_is_scored_by_the_reward_that_it_names(world: Path, tmp_path: Path):
    lines = [json.loads(line) for line in (world / "data.jsonl").read_text().splitlines()]
    for row in lines:
        row["meta"] = {"reward": "language_consistency"}
    (world / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    part = {"name": "number", "by_row": True}
    rows = rollouts(world, tmp_path / "run", part, data=[{"source": "vlm_r1", "path": str(world / "rows.jsonl")}])
    assert {row["reasons"]["number"] for row in rows} == {"no think block"}, "not 'no answer tag', which number says"


def test_a_row_with_an_unknown_reward_stops_a_run_before_it_begins(world: Path, tmp_path: Path):
    row = json.loads((world / "data.jsonl").read_text().splitlines()[0]) | {"meta": {"reward": "nmber"}}
    (world / "bad.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="sample 'row0': unknown reward 'nmber'; did you mean 'number'"):
        train(rl_recipe(world, data=[{"source": "vlm_r1", "path": str(world / "bad.jsonl")}]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
