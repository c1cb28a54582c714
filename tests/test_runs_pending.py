"""A stop before an evaluation that is due, at a step that is also saved: the run that makes up for it saves the step
again, with all its parts, and ends as if it had never stopped."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from copy_engine import CopyEngine
from safetensors.torch import load_file
from training_runs import rl_recipe, write_world

from saccade.models.policy import Policy, load_policy
from saccade.rollout.engine import Engine
from saccade.runs.stopping import RunStopped, Stop
from saccade.training import checkpoint, sft
from saccade.training.checkpoint import Checkpoint
from saccade.training.config import SFTRecipe
from saccade.training.rl import train

CLOCKS = ("time/", "tokens/per_s", "memory/")
AT = 3
"""The step whose evaluation is left: the second that is evaluated and saved, if not the last."""

RUNS: Mapping[str, Mapping[str, Any]] = {
    "replay": {"update": {"replay": {"size": 9}}},
    "reference": {"loss": {"kl_coef": 0.2, "reference_refresh": 2}},
    "ahead": {},
    "lora": {"model": {"train": [], "lora": {"rank": 2, "alpha": 4}}, "loss": {"kl_coef": 0.2}},
    "dynamic sampling": {"rollout": {"resample_rounds": 2}},
}
SLOW = ("lora", "dynamic sampling")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def score(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
    return {"score": -float(step)}


def rl(world: Path, name: str) -> Callable[..., Any]:
    changes = dict(RUNS[name])
    changes["model"] = {"path": str(world / "model"), "device": "cpu"} | changes.get("model", {})
    every = {"eval": {"every": AT}, "checkpoint": {"every": AT, "keep": 9}}
    recipe = rl_recipe(world, num_steps=AT + 1, optim={"lr": 1e-2}, **every, **changes)
    if name == "ahead":  # a recipe's own engine must be a server then
        recipe = recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"staleness": 1})})

    def run(out: Path, **more: Any) -> None:
        engine = CopyEngine(load_policy(recipe.model)) if name == "ahead" else None
        train(recipe, out, engine=engine, **more)

    return run


def sft_run(world: Path) -> Callable[..., Any]:
    data = [
        {"image": f"{i % 6}.png", "task": "count", "question": f"How many? {i % 6}", "response": str(i)}
        for i in range(12)
    ]
    (world / "replies.jsonl").write_text("\n".join(map(json.dumps, data)) + "\n")
    recipe = SFTRecipe.model_validate(
        {
            "model": {"path": str(world / "model"), "device": "cpu"},
            "data": [{"path": str(world / "replies.jsonl")}],
            "heldout": [{"path": str(world / "replies.jsonl"), "limit": 2}],
            "prompts_per_step": 2,
            "num_steps": AT + 1,
            "eval": {"every": AT},
            "checkpoint": {"every": AT, "keep": 9},
            "optim": {"lr": 1e-3},
        }
    )
    return lambda out, **more: sft.train(recipe, out, **more)


def rows(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(CLOCKS) and k != "run"} for row in lines]


def leaves(value: Any, key: str = "") -> Iterator[str]:
    """Every number of a state with its place, without times and the learning rate, which each step sets."""
    if isinstance(value, dict | list | tuple):
        for name, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, f"{key}.{name}")
    elif not key.endswith((".seconds", ".lr")):
        yield f"{key} {value.tolist() if isinstance(value, torch.Tensor) else value}"


def assert_same(run: Path, whole: Path) -> None:
    for path in sorted(whole.glob("*.jsonl")):
        assert rows(run / path.name) == rows(path), path.name
    for step in (AT, AT + 1):
        ours, theirs = (checkpoint.load(checkpoint.folder(one) / f"step-{step:06d}") for one in (run, whole))
        assert isinstance(ours, Checkpoint) and isinstance(theirs, Checkpoint)
        assert set(ours.state["files"]) == set(theirs.state["files"])
        assert not any(ours.state[key] != theirs.state[key] for key in ("loop", "pending", "best_step", "facts"))
        for name in theirs.state["files"]:
            a, b = ours.path / name, theirs.path / name
            if name.endswith(".safetensors"):
                one, other = load_file(a), load_file(b)
                assert all(torch.equal(one[key], other[key]) for key in other), (step, name)
            elif name.endswith(".pt"):
                one, other = (torch.load(path, weights_only=True) for path in (a, b))
                assert sorted(leaves(one)) == sorted(leaves(other)), (step, name)


def stopped_while(evaluate: Callable[[Path, Stop, Any], None], out: Path) -> None:
    """Runs until the evaluation of step AT, which a signal stops."""

    def slow(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
        if step == AT:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return score(policy, engine, step)

    with Stop(0.01).listening() as stop, pytest.raises(RunStopped):
        evaluate(out, stop, slow)
    found = checkpoint.latest(out)
    assert found is not None and found.step == AT and found.state["pending"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in (*RUNS, "sft")])
def test_an_evaluation_that_is_made_up_for_saves_the_step_with_all_its_parts(
    name: str, world: Path, tmp_path: Path
) -> None:
    run = sft_run(world) if name == "sft" else rl(world, name)
    run(tmp_path / "whole", evaluate=score)
    stopped_while(lambda out, stop, slow: run(out, evaluate=slow, stop=stop), tmp_path / "cut")
    run(tmp_path / "cut", evaluate=score, resume=True)
    assert_same(tmp_path / "cut", tmp_path / "whole")
