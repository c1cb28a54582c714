"""One optimiser step (or several) on the groups of a step. Knows log-probs, advantages and denominators; of prompts,
tasks and rewards nothing. R: packed tokens of a micro-batch; B: its completions.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saccade.algorithm import Denominators, Loss, LossInputs, sampler_gap
from saccade.config import Config
from saccade.models.forward import Features, branch_logprobs
from saccade.models.packing import Branch, Packed, pack
from saccade.models.policy import Policy
from saccade.models.sharing import Decision, SharedPrefix, decide
from saccade.training.batching import Row, micro_batches, repeated_cost, rows, shared_cost
from saccade.training.optim import GuardedOptimizer
from saccade.types import Group, Rollout

log = logging.getLogger(__name__)


class UpdateConfig(Config):
    """How a step's groups become updates. None of it but `updates_per_rollout` and `old_logprobs` changes the step."""

    tokens_per_micro_batch: int = Field(default=8192, ge=1)
    """Tokens of one forward and backward pass: prompts once and their replies, or with `shared_prefix: off` prompts
    repeated and padding included. A trained vision tower counts too, in tokens of equal cost."""
    updates_per_rollout: int = Field(default=1, ge=1)
    """Optimiser steps on the same groups (the papers' mu), all with the log-probs of the policy that sampled."""
    old_logprobs: Literal["sampler", "recompute"] = "sampler"
    """Whose log-probs the ratio starts from: the engine's, or a pass of the trainer before the first update."""
    sampler_gap_limit: float = Field(default=0.05, gt=0.0)
    """With `old_logprobs: sampler`: mean distance (nats a token) between the engine's log-probs and the trainer's above
    which the run warns that the ratio no longer starts from 1."""
    shared_prefix: SharedPrefix = "auto"
    """auto: replies of a group share their prompt where it pays and the first batch proves it exact; on: without the
    proof; off: a row per reply with the prompt repeated, the slow reference."""


@dataclass(eq=False)
class Learner:
    """Everything that an update touches."""

    policy: Policy
    optimizer: GuardedOptimizer
    loss: Loss
    config: UpdateConfig
    reference: Policy | None = None
    """Frozen; loaded only when the loss charges a KL."""
    decision: Decision | None = None
    """Taken on the first batch."""
    warned: bool = False
    """Of a prompt beyond the token budget."""
    dump: Callable[[Sequence[MicroBatch]], None] | None = None
    """Keeps a batch whose loss or gradient is not finite."""


@dataclass(eq=False)
class MicroBatch:
    """What one forward and backward pass reads."""

    packed: Packed
    features: Features | None
    advantages_B: Tensor
    sampler_logprobs_R: Tensor
    old_logprobs_R: Tensor
    group_ids: tuple[str, ...]
    ref_logprobs_R: Tensor | None = None


def counts(rollout: Rollout) -> bool:
    """Whether a rollout is in the loss: not masked, and with a token."""
    return rollout.score.masked is None and bool(rollout.completion.token_ids)


def count(groups: Sequence[Group], max_length: int) -> Denominators | None:
    """The denominators of the step, before any pass; None when no rollout counts.

    A group of equal rewards counts although its gradient is 0: leaving it out would make the others louder.
    """
    lengths = [len(r.completion.token_ids) for group in groups for r in group.rollouts if counts(r)]
    return Denominators(sum(lengths), len(lengths), max_length) if lengths else None


def members_of(groups: Sequence[Group], everyone: bool) -> list[list[int]]:
    """Per group the rollouts that cost a pass; those that move nothing (advantage 0 and no KL) do not."""
    return [
        [k for k, r in enumerate(group.rollouts) if counts(r) and (r.advantage != 0.0 or everyone)] for group in groups
    ]


def settle(learner: Learner, groups: Sequence[Group], members: Sequence[Sequence[int]]) -> Decision:
    """The run's decision about shared prompts, taken and said on its first batch."""
    if learner.decision is None:
        batch = [(g.prompt, [_branch(g.rollouts[k]) for k in of]) for g, of in zip(groups, members, strict=True) if of]
        learner.decision = decide(learner.policy, batch, learner.config.shared_prefix)
        log.info("%s", learner.decision)
    return learner.decision


def warn_of_long_prompts(learner: Learner, groups: Sequence[Group]) -> None:
    """Once a run: a prompt beyond the token budget is trained on whole, and the memory it takes was not planned."""
    budget, longest = learner.config.tokens_per_micro_batch, max(groups, key=lambda group: len(group.prompt))
    if len(longest.prompt) > budget and not learner.warned:
        learner.warned = True
        log.warning(
            "sample %s: its prompt has %d tokens, more than update.tokens_per_micro_batch %d, and its replies each a "
            "pass of its own; raise the budget if memory allows, or shrink the image",
            *(longest.sample.id, len(longest.prompt), budget),
        )


def split(groups: Sequence[Group], features: Features | None, learner: Learner) -> list[MicroBatch]:
    """Micro-batches of whole rows, balanced by cost."""
    members = members_of(groups, everyone=learner.reference is not None)
    if not any(members):
        return []
    policy, budget = learner.policy, learner.config.tokens_per_micro_batch
    cost = shared_cost if settle(learner, groups, members).path == "packed" else repeated_cost
    warn_of_long_prompts(learner, groups)
    all_rows: list[Row] = []
    for i, (group, of) in enumerate(zip(groups, members, strict=True)):
        lengths = [(k, len(group.rollouts[k].completion.token_ids)) for k in of]
        all_rows += rows(i, len(group.prompt) + policy.vision_cost(group.prompt), lengths, budget, cost)
    return [_micro_batch(batch, groups, features, policy.device) for batch in micro_batches(all_rows, budget)]


def _branch(rollout: Rollout) -> Branch:
    return Branch(rollout.completion.token_ids)


def _micro_batch(
    batch: list[Row], groups: Sequence[Group], features: Features | None, device: torch.device
) -> MicroBatch:
    members = [[groups[row.prompt].rollouts[k] for k in row.replies] for row in batch]
    packed = pack(
        [
            (groups[row.prompt].prompt, [_branch(r) for r in rollouts])
            for row, rollouts in zip(batch, members, strict=True)
        ]
    )
    flat = [rollout for rollouts in members for rollout in rollouts]
    sampler_R = torch.tensor([one for r in flat for one in r.completion.logprobs], device=device)
    if len(sampler_R) != packed.num_tokens:
        raise ValueError(f"the engine gave {len(sampler_R)} log-probs for {packed.num_tokens} tokens; expected equal")
    return MicroBatch(
        packed=packed,
        features=None if features is None else features.take([row.prompt for row in batch]),
        advantages_B=torch.tensor([r.advantage for r in flat], device=device, dtype=torch.float32),
        sampler_logprobs_R=sampler_R,
        old_logprobs_R=sampler_R,
        group_ids=tuple(groups[row.prompt].id for row in batch),
    )


def logprobs_of(
    policy: Policy, batch: MicroBatch, temperature: float, decision: Decision, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probs (and entropies) of the micro-batch under `policy`."""
    return branch_logprobs(
        policy,
        batch.packed,
        usable(batch.features, policy),
        temperature,
        entropy,
        decision.path,
        decision.form,
    )


def usable(features: Features | None, policy: Policy) -> Features | None:
    """The step's features if they hold for this pass; None makes the pass run the tower itself.

    Those of a frozen tower outlive weight versions. Those of a trained one hold for passes without gradient under the
    weights that made them.
    """
    if features is None:
        return None
    if policy.vision_is_frozen():
        return replace(features, version=policy.version)
    return features if features.version == policy.version and not torch.is_grad_enabled() else None


@torch.no_grad()
def fix_logprobs(learner: Learner, batches: Sequence[MicroBatch], decision: Decision, temperature: float) -> None:
    """Fills in what stays fixed during the updates: the reference's log-probs, and the old ones if recomputed."""
    for batch in batches:
        if learner.reference is not None:
            # the reference is the model that the run began with: its tower is the policy's as long as that is frozen
            same = batch if learner.policy.vision_is_frozen() else replace(batch, features=None)
            batch.ref_logprobs_R, _ = logprobs_of(learner.reference, same, temperature, decision)
        if learner.config.old_logprobs == "recompute":
            batch.old_logprobs_R, _ = logprobs_of(learner.policy, batch, temperature, decision)


def policy_step(
    learner: Learner,
    groups: Sequence[Group],
    features: Features | None,
    *,
    temperature: float,
    max_length: int,
    lr: float,
) -> dict[str, float]:
    """Updates the policy on `groups`; returns metrics. With nothing to learn from, `update/skipped` is 1.

    `temperature` is the sampling temperature, `max_length` the cap on new tokens (for the constant aggregation).
    """
    over = count(groups, max_length)
    batches = split(groups, features, learner) if over is not None else []
    decision = learner.decision
    if over is None or not batches or decision is None:
        return {"update/skipped": 1.0, "update/nonfinite": 0.0, "update/trained_tokens": 0.0}
    fix_logprobs(learner, batches, decision, temperature)
    first: dict[str, float] = {}
    nonfinite, norms = 0, []
    for update in range(learner.config.updates_per_rollout):
        metrics = _accumulate(learner, batches, over, temperature, first=update == 0)
        keep = None if learner.dump is None else partial(learner.dump, batches)
        norm, stepped = learner.optimizer.step(lr, metrics["policy/loss"], keep)
        learner.policy.version += int(stepped)
        nonfinite += int(not stepped)
        norms.append(norm)
        # entropy and sampler gap belong to the policy that sampled; ratios and clips tell most after the last update
        first = metrics if update == 0 else first | metrics
    return first | {
        "policy/grad_norm": sum(norms) / len(norms),
        "policy/lr": lr,
        "update/skipped": float(nonfinite == learner.config.updates_per_rollout),
        "update/nonfinite": float(nonfinite),
        "update/micro_batches": float(len(batches)),
        "update/packed": float(decision.path == "packed"),
        "update/saving": saving(batches) if decision.path == "packed" else 1.0,
    }


def saving(batches: Sequence[MicroBatch]) -> float:
    """Tokens with every prompt repeated, over tokens that were read."""
    layouts = [batch.packed.layout for batch in batches]
    return sum(one.plain_tokens for one in layouts) / sum(one.length for one in layouts)


def _accumulate(
    learner: Learner, batches: Sequence[MicroBatch], over: Denominators, temperature: float, first: bool
) -> dict[str, float]:
    """Gradients of the whole step, summed over micro-batches; means over the tokens that were trained on."""
    learner.optimizer.zero_grad()
    sums: Counter[str] = Counter()
    tokens, loss_value, gap_max = 0, 0.0, 0.0
    for batch in batches:
        assert learner.decision is not None
        logprobs_R, entropy_R = logprobs_of(learner.policy, batch, temperature, learner.decision, entropy=first)
        index_R = batch.packed.branch_index_R.to(logprobs_R.device)
        inputs = LossInputs(logprobs_R, batch.old_logprobs_R, batch.advantages_B, index_R, batch.ref_logprobs_R)
        out = learner.loss(inputs, over)
        if out.loss.requires_grad:  # not when only the vision side trains and no prompt has an image
            out.loss.backward()
        loss_value += float(out.loss.detach())
        tokens += len(logprobs_R)
        sums.update({name: float(value) for name, value in out.metrics.items()})
        if first:
            assert entropy_R is not None
            gap_sum, gap = sampler_gap(logprobs_R, batch.sampler_logprobs_R)
            sums.update({"policy/entropy": float(entropy_R.detach().sum()), "sampler/gap_mean": gap_sum})
            gap_max = max(gap_max, gap)
    metrics = {name: value / tokens for name, value in sums.items()} | {"policy/loss": loss_value}
    return metrics | ({"sampler/gap_max": gap_max, "update/trained_tokens": float(tokens)} if first else {})
