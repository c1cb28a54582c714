"""GRPO learns as well from vLLM's replies as from the built-in engine's.

SACCADE_VLLM=DIR/bin/vllm pytest -m "vllm and slow" tests/test_vllm_learns.py      # 6 minutes on two quiet cores
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_vllm_real import serve

from saccade.data import DataConfig
from saccade.evaluation.benchmark_run import answer_all
from saccade.evaluation.benchmarks.own import world_suite
from saccade.evaluation.config import Decoding
from saccade.evaluation.eval_plan import own_plan
from saccade.evaluation.graded_items import EvalRun
from saccade.evaluation.local_model import LocalModel
from saccade.evaluation.results import compare
from saccade.models.config import ModelConfig
from saccade.models.policy import Policy, load_policy
from saccade.rollout.config import DEFAULT_ENGINE, EngineConfig, RolloutConfig, VllmServerConfig
from saccade.rollout.engine import open_engine
from saccade.rollout.stages import Stage
from saccade.training.config import OptimConfig, RLRecipe
from saccade.training.rl import train

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(7200)]
TASKS = ("count", "arithmetic", "compare")
SEEDS = (11, 12, 13)
QUESTIONS = 100
"""Held-out questions of each task."""
WORST = -0.1
"""The interval of (vLLM - built-in) must lie above this accuracy."""


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, EngineConfig]]:
    process = serve(tmp_path_factory.mktemp("server"))
    try:
        process.wait_until_ready(400)
        yield {"vllm": VllmServerConfig(urls=(process.url,)), "builtin": DEFAULT_ENGINE}
    finally:
        process.stop()


def answers(policy: Policy) -> list[Any]:
    plan = own_plan(world_suite(["test"], TASKS, QUESTIONS, 3))
    decoding = Decoding(greedy=False, max_new_tokens=64)
    return list(answer_all(plan, EvalRun(LocalModel(policy, open_engine(policy)), decoding, batch_size=100))[0])


def recipe(seed: int, engine: EngineConfig) -> RLRecipe:
    return RLRecipe(
        seed=seed,
        model=ModelConfig(path="base", device="cpu"),
        data=tuple(DataConfig(source="world", task=task, seed=900) for task in TASKS),
        stages=(Stage(max_new_tokens=40, group_size=8, rubric="hard"),),
        num_steps=50,
        prompts_per_step=12,
        rollout=RolloutConfig(engine=engine),
        optim=OptimConfig(lr=1e-4, warmup_steps=5, betas=(0.9, 0.99)),
        images_per_step=0,
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_grpo_learns_alike_with_either_engine(engines: dict[str, EngineConfig], tmp_path: Path, seed: int) -> None:
    before = answers(load_policy(ModelConfig(path="base", train=())))
    after = {name: answers(train(recipe(seed, one), tmp_path / name).policy) for name, one in engines.items()}
    gains = {name: compare(f"{name} - before", found, before) for name, found in after.items()}
    between = compare("vllm - builtin", after["vllm"], after["builtin"])
    shown = {name: (one.difference, one.low, one.high) for name, one in {**gains, "between": between}.items()}
    (tmp_path / "shown.txt").write_text(str(shown))
    assert all(gain.low > 0 for gain in gains.values()), shown
    assert between.low > WORST, shown
