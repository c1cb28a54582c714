"""Saccade's arm: a whole GRPO step, made of the calls that `saccade.training.rl` makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from benchmarks.observe import Seen, rollout_path, training_path, watched
from benchmarks.setting import Setting, check_visual_tokens, policy_of, reward, samples
from saccade.algorithm import AdvantageConfig, LossConfig, build_advantages
from saccade.models.config import SharedPrefix
from saccade.models.forward import vision_features
from saccade.models.policy import Policy
from saccade.rewards.rubric import Part, Rubric
from saccade.rollout.builtin import BuiltinEngine
from saccade.rollout.collect import center, collect
from saccade.rollout.config import Sampling
from saccade.rollout.groups import Group
from saccade.rollout.prompts import Prompt, prepare
from saccade.rollout.stages import Stage
from saccade.training.config import OptimConfig, UpdateConfig
from saccade.training.learner import Learner, open_learner
from saccade.training.optim import GuardedOptimizer, build_optimizer
from saccade.training.policy_step import policy_step
from saccade.types import Completion, Sample, Score

LR = 1e-6
"""So small that the last measured step samples from nearly the same model as the first."""


def rate(completion: Completion, sample: Sample) -> Score:
    return Score(reward(completion.token_ids))


@dataclass(eq=False)
class SaccadeStep:
    """One arm with its own model and optimizer; call it for a step."""

    setting: Setting
    policy: Policy
    learner: Learner
    engine: BuiltinEngine
    samples: list[Sample]
    steps: int = 0
    groups: list[Group] = field(default_factory=list)
    """Of the last step."""

    def __call__(self) -> dict[str, float]:
        """Prompts from bytes, rollout, reward, update; everything that a step of a run pays except for its records."""
        stage = Stage(max_new_tokens=self.setting.new_tokens, group_size=self.setting.group_size)
        self.engine.sync(self.policy)
        scored = collect(
            self.engine,
            lambda _: Rubric([Part("benchmark", rate)], truncated="as_is"),
            "step",
            self._prompts(),
            sampling=Sampling(max_new_tokens=stage.max_new_tokens, min_new_tokens=stage.max_new_tokens),
            group_size=stage.group_size,
            seed=self.steps,
        )
        self.groups = center(scored, build_advantages(AdvantageConfig()))
        metrics = policy_step(self.learner, self.groups, temperature=1.0, max_length=stage.max_new_tokens, lr=LR)
        self.steps += 1
        self._check(metrics)
        return metrics

    def _prompts(self) -> list[Prompt]:
        prompts = [prepare(self.policy.adapter, sample) for sample in self.samples]
        if not self.policy.vision_is_frozen():
            return prompts
        features = vision_features(self.policy, [prompt.encoded for prompt in prompts])
        return [replace(prompt, features=one) for prompt, one in zip(prompts, features, strict=True)]

    def _check(self, metrics: dict[str, float]) -> None:
        """Every completion at its full length, and trained on. ValueError: the arm did less than the others."""
        s = self.setting
        check_visual_tokens([g.prompt.encoded for g in self.groups], self.policy.model.config.image_token_id, s)
        expected = s.prompts * s.group_size * s.new_tokens
        if metrics["update/trained_tokens"] != expected or metrics["update/skipped"]:
            raise ValueError(f"trained on {metrics['update/trained_tokens']:.0f} tokens; expected {expected}")

    def path(self) -> str:
        """What one step gives the model, as words for the column `path`."""
        with watched(self.policy.model) as seen:
            self()
        engine = self.engine.stats
        return f"{path_of(seen, self.groups, engine.row_steps)}; engine {engine.decoder}"


def path_of(seen: Seen, groups: Sequence[Group], row_steps: int) -> str:
    prompts = [len(group.prompt.encoded) for group in groups]
    replies = [[len(r.completion.token_ids) for r in group.rollouts] for group in groups]
    trained = training_path(seen, prompts, replies)
    return f"{trained}; {rollout_path(seen, prompts, len(replies[0]), row_steps)}; {seen.images} images"


def saccade_step(
    directory: Path,
    setting: Setting,
    checkpointing: bool = False,
    shared_prefix: SharedPrefix = "auto",
    parts: Literal["all", "language"] = "all",
    rank: int = 0,
) -> SaccadeStep:
    """The arm at the defaults of a run, except for the length of replies, the parts that train, and micro-batches:
    each holds one prompt with its completions, as in the other arms."""
    policy = policy_of(directory, parts, checkpointing, rank)
    config = OptimConfig(lr=LR)
    optimizer = GuardedOptimizer(build_optimizer(policy.trainable(), config), config)
    data = samples(setting)
    update = UpdateConfig(
        shared_prefix=shared_prefix, tokens_per_micro_batch=one_group(policy, setting, data, shared_prefix)
    )
    learner = open_learner(policy, optimizer, LossConfig(), update)
    return SaccadeStep(setting, policy, learner, BuiltinEngine(policy), data)


def one_group(policy: Policy, setting: Setting, data: Sequence[Sample], shared_prefix: SharedPrefix) -> int:
    """The budget into which one group fits and two do not."""
    prompts = [prepare(policy.adapter, sample).encoded for sample in data]
    prompt = max(len(one) + policy.vision_cost(one) for one in prompts)
    replies = setting.group_size * setting.new_tokens
    return setting.group_size * prompt + replies if shared_prefix == "off" else prompt + replies
