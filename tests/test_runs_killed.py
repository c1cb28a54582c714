"""Runs that are killed at any moment end as if they had not been: rows, weights, optimizer and random states."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from training_runs import rl_recipe, write_world

from saccade.config import dump
from saccade.runs.lock import LOCK

CLOCKS = ("time/", "tokens/per_s", "memory/")
STEPS, KILLS = 12, 20


def rows(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(CLOCKS) and k != "run"} for row in lines]


def started(*words: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "saccade", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(*words: Any) -> str:
    process = started(*words)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def kill_at(process: subprocess.Popen[str], seen: Path, count: int, wait_s: float) -> None:
    """Kills the process a moment after the given number of rows is there, or after the directory was made."""
    while process.poll() is None and not (seen.parent / LOCK if count == 0 else seen).exists():
        time.sleep(0.005)
    while process.poll() is None and count and seen.read_text().count("\n") < count:
        time.sleep(0.005)
    time.sleep(wait_s)
    process.send_signal(signal.SIGKILL)
    process.wait()


def sft_of(world: Path) -> str:
    data = [{"image": f"{i}.png", "task": "count", "question": f"How many? {i}", "response": str(i)} for i in range(6)]
    (world / "replies.jsonl").write_text("\n".join(map(json.dumps, data)) + "\n")
    recipe = {
        "kind": "sft",
        "model": {"path": str(world / "model"), "device": "cpu"},
        "data": [{"path": str(world / "replies.jsonl")}],
        "heldout": [{"path": str(world / "replies.jsonl"), "limit": 2}],
        "eval": {"every": 3},
        "prompts_per_step": 2,
        "num_steps": STEPS,
        "optim": {"lr": 1e-3},
        "checkpoint": {"every": 2},
    }
    return yaml.safe_dump(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["rl", "sft"])
def test_a_run_killed_again_and_again_is_the_whole_run(verb: str, tmp_path: Path) -> None:
    rng, world = random.Random(verb), write_world(tmp_path / "world")
    rl = rl_recipe(world, num_steps=STEPS, checkpoint={"every": 2, "keep": 2}, eval={"every": 3})
    (tmp_path / "recipe.yaml").write_text(dump(rl) if verb == "rl" else sft_of(world))
    whole, out = tmp_path / "whole", tmp_path / "run"
    finished(verb, tmp_path / "recipe.yaml", "--out", whole)
    words: tuple[Any, ...] = (verb, tmp_path / "recipe.yaml", "--out", out)
    for step in sorted(rng.randrange(STEPS - 1) for _ in range(KILLS)):
        kill_at(started(*words), out / "metrics.jsonl", step, rng.random() * 0.3)
        if (out / "config.yaml").exists():
            has_checkpoint = list((out / "checkpoints").glob("step-*"))
            words = ("resume", out) if has_checkpoint else ("resume", out, "--from", "start")
    output = finished(*words)
    assert f"{STEPS} steps done" in output
    for path in sorted(whole.glob("*.jsonl")):
        assert rows(out / path.name) == rows(path), path.name
    for link in ("last", *(["best"] if verb == "sft" else [])):
        ours, theirs = (one / "checkpoints" / link for one in (out, whole))
        assert os.readlink(ours) == os.readlink(theirs)
        a, b = (load_file(one / "model.safetensors") for one in (ours, theirs))
        assert all(torch.equal(a[name], b[name]) for name in b)
        states = [torch.load(one / "trainer.pt", weights_only=True) for one in (ours, theirs)]
        assert torch.equal(states[0]["rng"]["torch"], states[1]["rng"]["torch"])
        assert [states[0]["rng"][name] == states[1]["rng"][name] for name in ("python", "numpy")] == [True, True]
        kinds = [type(one["optimizer"]).__name__ for one in states]
        assert kinds == ["dict", "dict"] and str(states[0]["optimizer"]) == str(states[1]["optimizer"])
    assert not list(out.rglob("*.partial"))


@pytest.mark.slow
def test_an_evaluation_killed_again_and_again_is_the_whole_one(tmp_path: Path) -> None:
    rng, world = random.Random("eval"), write_world(tmp_path / "world", rows=60)
    words = ("eval", "jsonl", f"path={world / 'data.jsonl'}", f"model={world / 'model'}", "decoding.max_new_tokens=8")
    words = (*words, "batch_size=3", "decoding.greedy=false", "kept_images=0")
    whole, out = tmp_path / "whole", tmp_path / "run"
    finished(*words, "--out", whole)
    for count in sorted(rng.randrange(60) for _ in range(KILLS)):
        kill_at(started(*words, "--out", out), out / "items.jsonl", count, rng.random() * 0.3)
    finished(*words, "--out", out)
    assert (out / "items.jsonl").read_bytes() == (whole / "items.jsonl").read_bytes()
    ours, theirs = (json.loads((one / "results.json").read_text()) for one in (out, whole))
    assert ours["scores"] == theirs["scores"] and ours["counts"] == theirs["counts"]
