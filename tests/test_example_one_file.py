"""examples/grpo_in_one_file.py does what the framework does: trained on the same groups, both end with the same
weights, so the example cannot drift from what it explains."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from examples import grpo_in_one_file as example
from saccade import load_policy, open_engine
from saccade.algorithm import LossConfig, build_advantages
from saccade.data import DataConfig, open_source
from saccade.models.config import ModelConfig, SharedPrefix
from saccade.models.policy import Policy
from saccade.rollout.collect import center, score_groups
from saccade.tasks import TASKS
from saccade.training.config import OptimConfig, UpdateConfig
from saccade.training.learner import open_learner
from saccade.training.optim import GuardedOptimizer, build_optimizer
from saccade.training.policy_step import policy_step

MODEL = ModelConfig(path="base", dtype="float64", device="cpu")
OPTIM = OptimConfig(lr=1e-3, max_grad_norm=0.7)
"""The gradient of the first step is longer (0.95) and is clipped, that of the second is shorter (0.47)."""
example.MAX_GRAD_NORM = OPTIM.max_grad_norm
TOLERANCE = 1e-5
"""A hundredth of the learning rate. Everything is float64 except rewards, advantages and the sampler's log-probs."""


def example_groups(policy: Policy) -> list[example.Group]:
    source = open_source(DataConfig(source="world", task="compare"))
    samples, rubric = [source[i] for i in range(2)], TASKS["compare"].rubric()
    return example.sample_groups(policy, open_engine(policy), samples, rubric, 3, seeds=[1, 2])


def shifted(groups: list[example.Group]) -> list[example.Group]:
    """The groups as if another policy had sampled them, so that ratios differ from 1 and the clip acts."""
    generator = torch.Generator().manual_seed(0)

    def moved(logprobs: tuple[float, ...]) -> tuple[float, ...]:
        return tuple((torch.tensor(logprobs) + torch.randn(len(logprobs), generator=generator) / 2).tolist())

    return [
        replace(group, replies=[replace(reply, logprobs=moved(reply.logprobs)) for reply in group.replies])
        for group in groups
    ]


def weights(policy: Policy) -> Tensor:
    return torch.cat([parameter.detach().flatten() for _, parameter in policy.trainable()])


def by_the_example(groups: list[example.Group]) -> tuple[Tensor, list[float]]:
    """Weights and losses after two steps: Adam's first step hides the size of a gradient, its second does not."""
    policy = load_policy(MODEL)
    optimizer = torch.optim.AdamW([p for _, p in policy.trainable()], lr=OPTIM.lr, weight_decay=0.0)
    losses = [example.update(policy, optimizer, some) for some in (groups, groups[1:])]
    return weights(policy), losses


def by_the_framework(groups: list[example.Group], sharing: SharedPrefix) -> tuple[Tensor, list[float]]:
    policy = load_policy(MODEL)
    prompts, replies = [group.prompt for group in groups], [group.replies for group in groups]
    scored = score_groups("test", dict(enumerate(prompts)), replies, lambda task: TASKS[task].rubric())
    centered = center(scored, build_advantages(LossConfig().advantage))
    optimizer = GuardedOptimizer(build_optimizer(policy.trainable(), OPTIM), OPTIM)
    learner = open_learner(policy, optimizer, LossConfig(), UpdateConfig(shared_prefix=sharing))
    steps = [
        policy_step(learner, some, temperature=1.0, max_length=40, lr=OPTIM.lr) for some in (centered, centered[1:])
    ]
    return weights(policy), [metrics["policy/loss"] for metrics in steps]


@pytest.fixture(scope="module")
def groups() -> list[example.Group]:
    found = shifted(example_groups(load_policy(MODEL)))
    assert all(bool(group.advantages_G.any()) for group in found)
    return found


@pytest.fixture(scope="module")
def expected(groups: list[example.Group]) -> Tensor:
    return by_the_example(groups)[0]


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_steps_of_the_example_are_steps_of_the_framework(groups: list[example.Group], sharing: SharedPrefix) -> None:
    ours, losses = by_the_example(groups)
    theirs, their_losses = by_the_framework(groups, sharing)
    assert losses == pytest.approx(their_losses, rel=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


pack = example.pack


def leaking(group: example.Group) -> example.Row:
    row = pack(group)
    return replace(row, mask_TT=torch.ones_like(row.mask_TT).tril())


def running_on(group: example.Group) -> example.Row:
    row, start = pack(group), group.prompt.encoded.next_position
    positions = torch.cat([group.prompt.encoded.positions_3P, start + torch.arange(len(row.source_R)).expand(3, -1)], 1)
    return replace(row, positions_3T=positions)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("CLIP", 0.3), ("MAX_GRAD_NORM", 99.0), ("pack", leaking), ("pack", running_on)],
    ids=["another clip", "another gradient norm", "siblings see each other", "siblings continue each other"],
)
def test_a_mistake_in_the_example_is_noticed(
    groups: list[example.Group], expected: Tensor, monkeypatch: pytest.MonkeyPatch, name: str, wrong: object
) -> None:
    monkeypatch.setattr(example, name, wrong)
    assert (by_the_example(groups)[0] - expected).abs().max() > 10 * TOLERANCE


def test_the_example_runs_and_prints_the_reward_of_each_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["grpo", "--steps", "2", "--questions", "2", "--replies", "2"])
    example.main()
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["step", "1"], ["step", "2"]]
