"""Saccade's arm: a whole GRPO step, made of the calls that `saccade.training.rl` makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.observe import Seen, rollout_path, training_path, watched
from benchmarks.setting import Setting, check_visual_tokens, policy_of, reward, samples
from saccade.algorithm import LossConfig, Stage, advantages, build_loss
from saccade.models.adapter import Adapter
from saccade.models.forward import vision_features
from saccade.models.policy import Policy
from saccade.rewards.rubric import Part, Rubric
from saccade.rollout.builtin import BuiltinEngine
from saccade.rollout.collect import collect
from saccade.rollout.engine import Sampling
from saccade.rollout.prompts import PromptBatch, prepare
from saccade.training.optim import GuardedOptimizer, OptimConfig, build_optimizer
from saccade.training.policy_step import Learner, UpdateConfig, policy_step
from saccade.types import Completion, Group, Sample, Score

LR = 1e-6
"""So small that the last measured step samples from nearly the same model as the first."""


class NeverStops:
    """The adapter of a model that cannot end its turn, so that every reply runs to the cap: stop tokens are banned, as
    `generate` bans them below min_new_tokens."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self.stop_ids: tuple[int, ...] = ()
        self.banned_ids = (*adapter.banned_ids, *adapter.stop_ids)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)


def rate(completion: Completion, sample: Sample) -> Score:
    return Score(reward(completion.token_ids))


@dataclass(eq=False)
class SaccadeStep:
    """One arm with its own model and optimiser; call it for a step."""

    setting: Setting
    policy: Policy
    learner: Learner
    engine: BuiltinEngine
    samples: list[Sample]
    steps: int = 0
    groups: list[Group] = field(default_factory=list)
    """Of the last step."""
    phases: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> dict[str, float]:
        """Prompts from bytes, rollout, reward, update; everything that a step of a run pays except for its records."""
        stage = Stage(max_new_tokens=self.setting.new_tokens, group_size=self.setting.group_size)
        self.engine.sync(self.policy, self.steps)
        batch = self._prompts()
        self.groups = collect(
            self.engine,
            lambda _: Rubric([Part("benchmark", rate)], truncated="as_is"),
            batch,
            stage,
            sampling=Sampling(max_new_tokens=stage.max_new_tokens),
            seed=self.steps,
            center=advantages,
        )
        metrics = policy_step(
            self.learner, self.groups, batch.features, temperature=1.0, max_length=stage.max_new_tokens, lr=LR
        )
        self.steps += 1
        self._check(metrics)
        return metrics

    def _prompts(self) -> PromptBatch:
        prepared = tuple(prepare(self.policy.adapter, sample) for sample in self.samples)
        encoded = [one.encoded for one in prepared]
        frozen = self.policy.vision_is_frozen()
        return PromptBatch("step", prepared, vision_features(self.policy, encoded) if frozen else None)

    def _check(self, metrics: dict[str, float]) -> None:
        """Every completion at its full length, and trained on. ValueError: the arm did less than the others."""
        s = self.setting
        check_visual_tokens([g.prompt for g in self.groups], self.policy.model.config.image_token_id, s)
        expected = s.prompts * s.group_size * s.new_tokens
        if metrics["update/trained_tokens"] != expected or metrics["update/skipped"]:
            raise ValueError(f"trained on {metrics['update/trained_tokens']:.0f} tokens; expected {expected}")

    def path(self) -> str:
        """What one step gives the model, as words for the column `path`."""
        with watched(self.policy.model) as seen:
            self()
        return path_of(seen, self.groups)


def path_of(seen: Seen, groups: Sequence[Group]) -> str:
    prompts = [len(group.prompt) for group in groups]
    replies = [[len(r.completion.token_ids) for r in group.rollouts] for group in groups]
    trained = training_path(seen, prompts, replies)
    return f"{trained}; {rollout_path(seen, prompts, len(replies[0]))}; {seen.images} images"


def saccade_step(
    directory: Path,
    setting: Setting,
    checkpointing: bool = False,
    path: Literal["packed", "plain"] = "packed",
    parts: Literal["all", "language"] = "all",
) -> SaccadeStep:
    """The arm at the defaults of a run, except for the length of replies and the parts that train."""
    policy = policy_of(directory, parts, checkpointing)
    policy.adapter = NeverStops(policy.adapter)
    torch.manual_seed(0)
    config = OptimConfig(lr=LR)
    optimizer = GuardedOptimizer(build_optimizer(policy.trainable(), config), config)
    learner = Learner(policy, optimizer, build_loss(LossConfig()), UpdateConfig(path=path))
    return SaccadeStep(setting, policy, learner, BuiltinEngine(policy), samples(setting))
