"""Groups with made-up replies on a tiny float64 policy, and the gradient that an update takes on them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from saccade.algorithm import GroupRewards, LossConfig, build_advantages
from saccade.models.forward import branch_logprobs, vision_features
from saccade.models.packing import Branch, pack
from saccade.models.policy import Policy
from saccade.rollout.groups import Group, Rollout
from saccade.rollout.prompts import prepare
from saccade.training.config import OptimConfig, UpdateConfig
from saccade.training.learner import Learner, open_learner
from saccade.training.optim import GuardedOptimizer
from saccade.training.policy_step import policy_step
from saccade.types import Completion, Sample, Score

OPTIM = OptimConfig(lr=1e-3, max_grad_norm=float("inf"))


def group_of(policy: Policy, number: int, lengths: Sequence[int], rewards: Sequence[float | None]) -> Group:
    """A group about an image, with made-up tokens; a reward of None is masked. Sampler log-probs are a little off."""
    sample = Sample(f"s{number}", (Image.new("RGB", (56, 56), (70 * number, 9, 9)),), "How many?", 1, "count")
    prompt = prepare(policy.adapter, sample)
    generator = torch.Generator().manual_seed(number)
    ids = [torch.randint(40, 400, (n,), generator=generator).tolist() for n in lengths]
    with torch.no_grad():
        logprobs_R, _ = branch_logprobs(policy, pack([(prompt.encoded, [Branch(one) for one in ids])]))
    pieces = (logprobs_R + 0.3 * torch.randn(len(logprobs_R), generator=generator)).split(list(lengths))
    rewards_G = torch.tensor([r or 0.0 for r in rewards], dtype=torch.float64)
    counted_G = torch.tensor([r is not None for r in rewards])
    (advantages_G,) = build_advantages(LossConfig().advantage)([GroupRewards(rewards_G, counted_G)])
    rollouts = tuple(
        Rollout(
            Completion("", tuple(tokens), tuple(piece.tolist())),
            Score(r or 0.0, masked="failed" if r is None else None),
            advantage,
        )
        for tokens, piece, r, advantage in zip(ids, pieces, rewards, advantages_G.tolist(), strict=True)
    )
    (features,) = vision_features(policy, [prompt.encoded])
    return Group(f"g{number}", replace(prompt, features=features), rollouts)


def learner_of(policy: Policy, loss: LossConfig, reference: Policy | None = None, **update: Any) -> Learner:
    optimizer = GuardedOptimizer(torch.optim.SGD([p for _, p in policy.trainable()], lr=0.0), OPTIM)
    return open_learner(policy, optimizer, loss, UpdateConfig(**update), reference)


def moved_copy(policy: Policy) -> Policy:
    """A reference that differs from the policy: at equality the KL would have no gradient to test."""
    model = copy.deepcopy(policy.model)
    model.lm_head.weight.data.mul_(1.1)
    return Policy(model, policy.adapter, policy.processors)


class Recorded(GuardedOptimizer):
    """Keeps the gradient that a step would take."""

    def step(self, lr: float, loss: float, keep: Any = None) -> tuple[float, bool]:
        self.seen = torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None])
        return super().step(0.0, loss, keep)


def gradient(policy: Policy, groups: Sequence[Group], loss: LossConfig, **update: Any) -> torch.Tensor:
    learner = learner_of(policy, loss, moved_copy(policy) if loss.kl_coef else None, **update)
    recorded = Recorded(learner.runner.optimizer.optimizer, OPTIM)
    learner.runner.optimizer = recorded
    policy_step(learner, groups, temperature=0.8, max_length=9, lr=0.0)
    return recorded.seen
