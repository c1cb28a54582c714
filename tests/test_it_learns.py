"""The law that all others serve: with a fixed seed, minutes of GRPO raise held-out accuracy of the shipped base."""

from __future__ import annotations

from statistics import fmean

from saccade.data import DataConfig
from saccade.evaluation.benchmark_run import answer_all
from saccade.evaluation.benchmarks.own import world_suite
from saccade.evaluation.config import Decoding
from saccade.evaluation.eval_plan import own_plan
from saccade.evaluation.graded_items import EvalRun
from saccade.evaluation.local_model import LocalModel
from saccade.evaluation.results import compare
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy
from saccade.rollout.engine import open_engine
from saccade.rollout.stages import Stage
from saccade.training.config import OptimConfig, RLRecipe
from saccade.training.rl import train

TASKS = ("count", "arithmetic", "compare")
HELD_OUT_SEED = 3


def answers(policy):
    plan = own_plan(world_suite(["test"], TASKS, 60, HELD_OUT_SEED))
    decoding = Decoding(greedy=False, max_new_tokens=64)
    return answer_all(plan, EvalRun(LocalModel(policy, open_engine(policy)), decoding, batch_size=90))[0]


def test_grpo_raises_held_out_accuracy_and_not_only_the_training_reward(tmp_path):
    recipe = RLRecipe(
        seed=11,
        model=ModelConfig(path="base"),
        data=tuple(DataConfig(source="world", task=task, seed=900) for task in TASKS),
        stages=(Stage(max_new_tokens=40, group_size=8, rubric="hard"),),
        num_steps=50,
        prompts_per_step=12,
        optim=OptimConfig(lr=1e-4, warmup_steps=5, betas=(0.9, 0.99)),
        images_per_step=0,
    )
    before = answers(load_policy(ModelConfig(path="base", train=())))
    after = answers(train(recipe, tmp_path / "run").policy)
    gain = compare("after - before", after, before)
    assert gain.difference > 0.08 and gain.low > 0, (
        fmean(i.accuracy for i in before),
        fmean(i.accuracy for i in after),
    )
