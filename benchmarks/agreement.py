"""Do two trainers take the same step? The gradient of one step on TRL's own rollouts, by both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.peer_trl import TrlBatch, trl_gradient, trl_step
from benchmarks.setting import Setting, policy_of, samples
from saccade.algorithm import LossConfig
from saccade.models.policy import Policy
from saccade.rollout.groups import Group, Rollout
from saccade.rollout.prompts import prepare
from saccade.training.config import OptimConfig, UpdateConfig
from saccade.training.learner import open_learner
from saccade.training.optim import GuardedOptimizer, build_optimizer
from saccade.training.policy_step import policy_step
from saccade.types import Completion, Sample, Score

AGGREGATION = {"dapo": "token_mean", "grpo": "sequence_mean", "dr_grpo": "constant"}
"""TRL's loss_type -> our aggregation of the same sums."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far Saccade's gradient is from TRL's."""

    distance: float
    """Norm of the difference of the whole gradients / norm of TRL's."""
    loss: float
    trl_loss: float
    parameters: int
    """Tensors that have a gradient; the same in both, or there is no Agreement."""


def agreement(
    directory: Path, setting: Setting, loss_type: str, shared_prefix: str = "on", ragged: bool = True
) -> Agreement:
    """Both gradients on the same rollouts and advantages. ValueError when the prompts' ids differ, or the parameters
    that get a gradient."""
    rows = setting.prompts * setting.group_size  # one micro-batch: its averages are those of the step
    arm = trl_step(directory, setting, 1, checkpointing=False, rows=rows, loss_type=loss_type)
    theirs = trl_gradient(arm, lengths_seed=0 if ragged else None)
    policy = policy_of(directory, "all")
    groups = groups_of(policy, samples(setting), theirs, setting.group_size)
    ours, loss = our_gradient(policy, groups, AGGREGATION[loss_type], setting.new_tokens, shared_prefix)
    if ours.keys() != theirs.gradients.keys():
        raise ValueError(f"only one trainer has gradients for {sorted(ours.keys() ^ theirs.gradients.keys())}")
    names = sorted(ours)
    mine, other = (torch.cat([g[name].flatten().double() for name in names]) for g in (ours, theirs.gradients))
    return Agreement(float((mine - other).norm() / other.norm()), loss, theirs.loss, len(names))


def groups_of(policy: Policy, data: list[Sample], batch: TrlBatch, group_size: int) -> list[Group]:
    """TRL's rollouts as groups. ValueError when a prompt is not the same tokens in both."""
    groups = []
    for i, sample in enumerate(data):
        prompt = prepare(policy.adapter, sample)
        rollouts = []
        for k in range(i * group_size, (i + 1) * group_size):
            if batch.prompts[k] != prompt.encoded.ids_P.tolist():
                raise ValueError(f"prompt {sample.id}: TRL has other token ids; expected the same prompt in both arms")
            ids = tuple(batch.completions[k])
            reply = Completion(policy.adapter.decode(ids), ids, (0.0,) * len(ids), "length")
            rollouts.append(Rollout(reply, Score(0.0), batch.advantages[k]))
        groups.append(Group(f"g{i}", prompt, tuple(rollouts)))
    return groups


def our_gradient(
    policy: Policy, groups: list[Group], aggregation: str, max_length: int, shared_prefix: str
) -> tuple[dict[str, Tensor], float]:
    """Gradients by name and the loss, through `policy_step` as a run calls it, at a rate of 0. The old log-probs are
    recomputed: TRL's are its own detached ones, so both ratios are 1."""
    config = OptimConfig(lr=1e-6, max_grad_norm=math.inf)
    optimizer = build_optimizer(policy.trainable(), config)
    kept: dict[str, Tensor] = {}

    def keep(*_: object) -> None:
        kept.update({name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None})

    optimizer.register_step_pre_hook(keep)
    update = UpdateConfig.model_validate({"old_logprobs": "recompute", "shared_prefix": shared_prefix})
    learner = open_learner(policy, GuardedOptimizer(optimizer, config), LossConfig(aggregation=aggregation), update)
    metrics = policy_step(learner, groups, temperature=1.0, max_length=max_length, lr=0.0)
    return kept, metrics["policy/loss"]
