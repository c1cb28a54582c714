"""How two processes are compared with one (tests/ranks_worker.py): gradients, weights and metrics of the same steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.distributed.tensor import DTensor

from saccade.algorithm import LossConfig
from saccade.models.adapter import EncodedPrompt
from saccade.models.config import ModelConfig, ShardConfig
from saccade.models.policy import Policy, load_policy
from saccade.rollout.groups import Group, Rollout
from saccade.rollout.prompts import Prompt
from saccade.training.config import OptimConfig, UpdateConfig
from saccade.training.examples import EncodedUnit
from saccade.training.learner import open_learner
from saccade.training.optim import GuardedOptimizer
from saccade.training.policy_step import policy_step
from saccade.training.ranks import ONE, Ranks
from saccade.training.sft import sft_step
from saccade.training.step import StepRunner
from saccade.types import Completion, Score

STEPS, LR, ALL = 3, 0.05, ("vision", "projector", "language")


@dataclass
class World:
    folder: Path
    ranks: Ranks
    shard: ShardConfig = field(default_factory=ShardConfig)

    def policy(self, sharded: bool, **model: Any) -> Policy:
        config = ModelConfig.model_validate({"path": str(self.folder / "model"), "device": "cpu"} | model)
        return load_policy(config, shard=self.shard if sharded else None)


class RecordingSGD(torch.optim.SGD):
    """Plain gradient descent that keeps the whole gradients of its first step."""

    first: list[Tensor | None] | None = None

    def step(self, closure: Any = None) -> Any:
        if self.first is None:
            params = [p for group in self.param_groups for p in group["params"]]
            self.first = [None if p.grad is None else whole(p.grad).clone() for p in params]
        return super().step(closure)


def whole(tensor: Tensor) -> Tensor:
    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


@dataclass
class Trained:
    """What is compared: gradients of the first step, weights after three, metrics of each."""

    policy: Policy
    grads: dict[str, Tensor | None] = field(default_factory=dict)
    start: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)


def descend(policy: Policy, step: Callable[[GuardedOptimizer], dict[str, float]]) -> Trained:
    names = [name for name, _ in policy.trainable()]
    optimizer = RecordingSGD([p for _, p in policy.trainable()], lr=LR)
    guarded = GuardedOptimizer(optimizer, OptimConfig(lr=LR, max_grad_norm=float("inf")))
    found = Trained(policy, start={name: whole(p).clone() for name, p in policy.model.named_parameters()})
    found.metrics = [step(guarded) for _ in range(STEPS)]
    assert optimizer.first is not None
    found.grads = dict(zip(names, optimizer.first, strict=True))
    found.weights = {name: whole(p) for name, p in policy.model.named_parameters()}
    return found


def difference(ours: Trained, one: Trained | None) -> dict[str, Any]:
    """Largest difference over the largest gradient (or weight) of each parameter; all metrics that differ. Only the
    first process has something to compare with."""
    if one is None:
        return {}

    def far(a: Tensor | None, b: Tensor | None) -> float:
        if a is None or b is None:
            return 0.0 if a is b else float("inf")
        return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))

    apart = {name: ours.grads[name] for name in one.grads}
    metrics = [
        name
        for a, b in zip(ours.metrics, one.metrics, strict=True)
        for name in b.keys() - {"update/micro_batches", "update/saving"}
        # log-probs here are made up, and shards look for no cause
        if not name.startswith("sampler/cause/") and abs(a[name] - b[name]) > 1e-5 * max(1, abs(b[name]))
    ]
    both = [(a, one.grads[name]) for name, a in apart.items()]
    off, size = (sum(float(g.double().square().sum()) for g in some) for some in _whole_gradients(both))
    return {
        "whole_gradient": (off / size) ** 0.5,
        "gradient": max(far(a, one.grads[name]) for name, a in apart.items()),
        "weights": max(far(ours.weights[name], b) for name, b in one.weights.items()),
        "moved": max(float((b - one.start[name]).abs().max()) for name, b in one.weights.items()),
        "metrics_apart": sorted(set(metrics)),
        "steps": len(one.metrics),
    }


def _whole_gradients(both: list[tuple[Tensor | None, Tensor | None]]) -> tuple[list[Tensor], list[Tensor]]:
    """(differences, gradients of one process)."""
    present = [(a, b) for a, b in both if a is not None and b is not None]
    return [a - b for a, b in present], [b for _, b in present]


def prompts_of(policy: Policy, texts: int = 0, pictures: int = 4) -> list[EncodedPrompt]:
    """Prompts with pictures of several sizes, then prompts without."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for i in range(pictures):
        size = (56 + 28 * (i % 3), 56 + 28 * (i % 2), 3)
        pixels = torch.randint(0, 255, size, generator=generator, dtype=torch.uint8).numpy()
        found.append(policy.adapter.encode(f"<image>How many? {i}", [Image.fromarray(pixels)]))
    return found + [policy.adapter.encode(f"{i} + {i} = ?", []) for i in range(texts)]


def replies(n: int, length: int, seed: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(300, 400, (length + k,), generator=generator).tolist()) for k in range(n)]


def units_of(policy: Policy, texts: int, pictures: int) -> list[EncodedUnit]:
    prompts = prompts_of(policy, texts, pictures)
    return [EncodedUnit(prompt, tuple(replies(3, 4 + i, i))) for i, prompt in enumerate(prompts)]


def supervised(
    world: World, mine: Callable[[int], list[int]], texts: int = 0, pictures: int = 4, **options: Any
) -> dict[str, Any]:
    """SFT steps on a share of the units in each process against all units in one."""
    path = options.pop("shared_prefix", "on")
    budget = options.pop("tokens_per_micro_batch", 60)

    def trained(policy: Policy, ranks: Ranks, places: list[int]) -> Trained:
        units = units_of(policy, texts, pictures)
        runner: list[Any] = []

        def step(optimizer: GuardedOptimizer) -> dict[str, float]:
            if not runner:
                runner.append(StepRunner(policy, optimizer, budget, path, ranks))
            return sft_step(runner[0], [units[i] for i in places], LR)

        return descend(policy, step)

    total = list(range(texts + pictures))
    one = trained(world.policy(False, **options), ONE, total) if world.ranks.is_first else None
    ours = trained(world.policy(True, **options), world.ranks, mine(world.ranks.rank))
    return difference(ours, one) | {"kinds": kinds(ours.policy), "tied": tied(ours.policy)}


def kinds(policy: Policy) -> dict[str, list[str]]:
    """Which kinds of tensors the parameters of each part are."""
    parts = policy.parameters_by_part()
    return {part: sorted({type(p).__name__ for _, p in named}) for part, named in parts.items()}


def tied(policy: Policy) -> bool:
    model = policy.model
    return model.lm_head.weight is model.get_input_embeddings().weight


def groups_of(policy: Policy, silent: set[int], texts: int = 0, pictures: int = 4) -> list[Group]:
    """Groups of three rollouts; those of `silent` have equal rewards and so no advantage."""
    found = []
    for i, prompt in enumerate(prompts_of(policy, texts, pictures)):
        rollouts = []
        for k, ids in enumerate(replies(3, 3 + i, 10 + i)):
            advantage = 0.0 if i in silent else float(k - 1) + 0.25 * i
            logprobs = tuple(-4.0 - 0.01 * j for j in range(len(ids)))
            rollouts.append(Rollout(Completion("", ids, logprobs), Score(0.5), advantage))
        found.append(Group(f"{i}", Prompt(None, prompt), tuple(rollouts)))
    return found


def reinforced(
    world: World,
    mine: Callable[[int], list[int]],
    silent: set[int] | None = None,
    loss: dict[str, Any] | None = None,
    update: dict[str, Any] | None = None,
    texts: int = 0,
    pictures: int = 4,
    **model: Any,
) -> dict[str, Any]:
    """Policy updates on a share of the groups in each process against all groups in one."""
    objective = LossConfig.model_validate({"kl_coef": 0.0} | (loss or {}))
    config = UpdateConfig.model_validate({"tokens_per_micro_batch": 60, "shared_prefix": "on"} | (update or {}))

    def trained(sharded: bool, ranks: Ranks, places: list[int]) -> Trained:
        policy = world.policy(sharded, **model)
        reference = world.policy(sharded, train=()) if objective.kl_coef else None
        if objective.kl_coef and policy.adapters is not None:
            reference = policy.base_view()
        groups = groups_of(policy, silent or set(), texts, pictures)
        learner: list[Any] = []

        def step(optimizer: GuardedOptimizer) -> dict[str, float]:
            if not learner:
                learner.append(open_learner(policy, optimizer, objective, config, reference, ranks=ranks))
            share, order = [groups[i] for i in places], [group.id for group in groups]
            return policy_step(learner[0], share, temperature=1.0, max_length=12, lr=LR, order=order)

        return descend(policy, step)

    one = trained(False, ONE, list(range(texts + pictures))) if world.ranks.is_first else None
    ours = trained(True, world.ranks, mine(world.ranks.rank))
    return difference(ours, one) | {"kinds": kinds(ours.policy), "tied": tied(ours.policy)}
