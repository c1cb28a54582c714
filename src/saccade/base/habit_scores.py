"""Held-out accuracy of a base model per habit: with the first words of the reply forced, and free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saccade.evaluation.benchmark_run import answer_all
from saccade.evaluation.benchmarks.own import world_suite
from saccade.evaluation.config import Decoding
from saccade.evaluation.eval_plan import own_plan
from saccade.evaluation.graded_items import EvalRun
from saccade.evaluation.local_model import LocalModel
from saccade.evaluation.results import summarize, write_json
from saccade.models.policy import Policy
from saccade.rollout.engine import open_engine
from saccade.world import FIRST_WORDS
from saccade.world.splits import find_split

SPLIT = "test"
SUITE_SEED = 2
"""Differs from the demo's benchmark, so that choices made while training a base do not overfit to it."""


def habit_scores(policy: Policy, n: int = 100, max_new_tokens: int = 160) -> list[dict[str, Any]]:
    """Rows as in results.json: every task greedy and sampled, free and forced to each habit (column `control`)."""
    engine = open_engine(policy)
    plan = own_plan(world_suite([SPLIT], find_split(SPLIT).tasks, n, SUITE_SEED))
    rows: list[dict[str, Any]] = []
    for habit, prefix in {None: "", **{h: f"<think>{word}" for h, word in FIRST_WORDS.items()}}.items():
        for greedy in (True, False):
            decoding = Decoding(greedy=greedy, max_new_tokens=max_new_tokens)
            control = f"forced: {habit}" if habit else None
            run = EvalRun(LocalModel(policy, engine, prefix), decoding, "base", control, batch_size=100)
            rows += summarize(answer_all(plan, run)[0])
    return rows


def write_scores(policy: Policy, path: Path, n: int = 100) -> Path:
    """Write `habit_scores` as JSON."""
    return write_json(path, {"schema": 1, "split": SPLIT, "suite_seed": SUITE_SEED, "rows": habit_scores(policy, n)})
