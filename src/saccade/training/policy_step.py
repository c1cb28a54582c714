"""The policy update: groups with advantages -> one optimizer step (or several). It uses only log-probs, advantages and
denominators, and is independent of tasks and rewards. R: loss tokens of a micro-batch; B: its completions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from saccade.algorithm import Denominators, Loss, LossConfig, LossInputs, build_loss, sampler_gap
from saccade.models.packing import Branch, Packed
from saccade.models.policy import Policy
from saccade.rollout.groups import Group, Rollout
from saccade.training.config import UpdateConfig
from saccade.training.optim import GuardedOptimizer
from saccade.training.ranks import ONE, Ranks
from saccade.training.step import MicroBatch, StepRunner, Unit


@dataclass(frozen=True, eq=False, slots=True)
class PolicyBatch:
    """A micro-batch with what the policy loss reads besides log-probs."""

    passes: MicroBatch
    advantages_B: Tensor
    sampler_logprobs_R: Tensor
    old_logprobs_R: Tensor
    group_ids: tuple[str, ...]
    ref_logprobs_R: Tensor | None = None

    @property
    def packed(self) -> Packed:
        return self.passes.packed

    def halves(self) -> tuple[PolicyBatch, PolicyBatch]:
        """See `MicroBatch.halves`: completions and their tokens keep their order."""
        first, last = self.passes.halves()
        B, R = len(first.members), first.packed.num_tokens
        return self._part(first, slice(B), slice(R)), self._part(last, slice(B, None), slice(R, None))

    def _part(self, passes: MicroBatch, some_B: slice, some_R: slice) -> PolicyBatch:
        units = list(dict.fromkeys(unit for unit, _ in self.passes.members))
        ref_R = self.ref_logprobs_R
        return PolicyBatch(
            passes=passes,
            advantages_B=self.advantages_B[some_B],
            sampler_logprobs_R=self.sampler_logprobs_R[some_R],
            old_logprobs_R=self.old_logprobs_R[some_R],
            group_ids=tuple(self.group_ids[units.index(i)] for i in dict.fromkeys(unit for unit, _ in passes.members)),
            ref_logprobs_R=None if ref_R is None else ref_R[some_R],
        )


@dataclass(eq=False)
class Learner:
    """Everything that an update touches."""

    runner: StepRunner[PolicyBatch]
    loss: Loss
    config: UpdateConfig
    """Resolved."""
    reference: Policy | None = None
    """Frozen, or the policy with its adapters off; only when the loss charges a KL."""
    dump: Callable[[Sequence[PolicyBatch]], None] | None = None
    """Keeps a batch whose loss or gradient is not finite."""


def open_learner(
    policy: Policy,
    optimizer: GuardedOptimizer,
    loss: LossConfig,
    update: UpdateConfig,
    reference: Policy | None = None,
    dump: Callable[[Sequence[PolicyBatch]], None] | None = None,
    ranks: Ranks = ONE,
) -> Learner:
    """The learner of a recipe's `loss` and `update` sections."""
    update = update.resolved(loss)
    runner = StepRunner[PolicyBatch](policy, optimizer, update.tokens_per_micro_batch, update.shared_prefix, ranks)
    return Learner(runner, build_loss(loss), update, reference, dump)


def count_denominators(groups: Sequence[Group], max_length: int, learner: Learner) -> Denominators | None:
    """The denominators of the step over all processes, before any pass; None when no rollout contributes.

    A group of equal rewards counts although its gradient is 0: excluding it would give the others more weight.
    """
    lengths = [r.completion.loss_tokens for group in groups for r in group.rollouts if r.contributes]
    tokens, sequences = (int(learner.runner.ranks.sum(n)) for n in (sum(lengths), len(lengths)))
    return Denominators(tokens, sequences, max_length) if sequences else None


def trained_rollouts(groups: Sequence[Group], include_zero_advantage: bool) -> list[tuple[Group, list[Rollout]]]:
    """Groups with the rollouts that need a pass; those without a gradient (advantage 0 and no KL) do not."""
    found = [
        (group, [r for r in group.rollouts if r.contributes and (r.advantage != 0.0 or include_zero_advantage)])
        for group in groups
    ]
    return [(group, members) for group, members in found if members]


def cut(groups: Sequence[Group], learner: Learner) -> list[PolicyBatch]:
    """The step's micro-batches with their tensors."""
    found = trained_rollouts(groups, include_zero_advantage=learner.reference is not None)
    units = [
        Unit(group.prompt, tuple(Branch(r.completion.token_ids, r.completion.spans) for r in members))
        for group, members in found
    ]
    device = learner.runner.policy.device
    return [_policy_batch(passes, found, device) for passes in learner.runner.cut(units)]


def _policy_batch(
    passes: MicroBatch, found: Sequence[tuple[Group, list[Rollout]]], device: torch.device
) -> PolicyBatch:
    rollouts = [found[unit][1][k] for unit, k in passes.members]
    sampler_R = torch.tensor([one for r in rollouts for one in r.completion.logprobs], device=device)
    if len(sampler_R) != passes.packed.num_tokens:
        raise ValueError(
            f"the engine gave {len(sampler_R)} log-probs for {passes.packed.num_tokens} tokens; expected equal"
        )
    return PolicyBatch(
        passes=passes,
        advantages_B=torch.tensor([r.advantage for r in rollouts], device=device, dtype=torch.float32),
        sampler_logprobs_R=sampler_R,
        old_logprobs_R=sampler_R,
        group_ids=tuple(dict.fromkeys(found[unit][0].id for unit, _ in passes.members)),
    )


@torch.no_grad()
def fix_logprobs(learner: Learner, batch: PolicyBatch, temperature: float) -> PolicyBatch:
    """The batch with what stays fixed during the updates: the reference's log-probs, and the old ones if recomputed."""
    if learner.reference is not None:
        ref_R, _ = learner.runner.logprobs(batch.passes, temperature, policy=learner.reference)
        batch = replace(batch, ref_logprobs_R=ref_R)
    if learner.config.old_logprobs == "recompute":
        batch = replace(batch, old_logprobs_R=learner.runner.logprobs(batch.passes, temperature)[0])
    return batch


@contextmanager
def whole_weights(learner: Learner) -> Iterator[None]:
    """For `fix_logprobs`: processes have different numbers of batches, so each computes on its own."""
    with ExitStack() as stack:
        if learner.reference is not None:
            stack.enter_context(learner.reference.whole())
        if learner.config.old_logprobs == "recompute":
            stack.enter_context(learner.runner.policy.whole())
        yield


def policy_step(
    learner: Learner, groups: Sequence[Group], *, temperature: float, max_length: int, lr: float
) -> dict[str, float]:
    """Updates the policy on `groups`; returns metrics. With nothing to learn from, `update/skipped` is 1.

    `temperature` is the sampling temperature, `max_length` the cap on new tokens (for the constant aggregation).
    """
    runner, updates = learner.runner, learner.config.updates_per_rollout
    denominators = count_denominators(groups, max_length, learner)
    batches = cut(groups, learner) if denominators is not None else []
    if denominators is None or not runner.ranks.max(len(batches)):
        return {"update/skipped": 1.0, "update/nonfinite": 0.0, "update/trained_tokens": 0.0}
    with whole_weights(learner):
        batches = runner.each(batches, lambda batch: fix_logprobs(learner, batch, temperature))
    keep = None if learner.dump is None else partial(learner.dump, batches)
    metrics: dict[str, float] = {}
    nonfinite, norms = 0, []
    for update in range(updates):
        sums = Sums(first=update == 0)
        loss_of = partial(_loss_of, learner, denominators, temperature, sums)
        result = runner.step(batches, loss_of, lr, keep, sums.begin)
        nonfinite += int(not result.stepped)
        norms.append(result.grad_norm)
        # entropy and sampler gap belong to the policy that sampled; ratios and clips tell most after the last update
        metrics |= sums.means(runner.ranks) | {"policy/loss": result.loss}
    assert runner.choice is not None
    packed = runner.choice.path == "packed"
    return metrics | {
        "policy/grad_norm": sum(norms) / len(norms),
        "policy/lr": lr,
        "update/skipped": float(nonfinite == updates),
        "update/nonfinite": float(nonfinite),
        "update/micro_batches": float(runner.ranks.sum(len(batches))),
        "update/packed": float(packed),
        "update/saving": token_savings(batches, runner.ranks) if packed else 1.0,
    }


def token_savings(batches: Sequence[PolicyBatch], ranks: Ranks) -> float:
    """Tokens with every prompt repeated, over tokens that were read."""
    layouts = [batch.packed.layout for batch in batches]
    return ranks.sum(sum(one.plain_tokens for one in layouts)) / ranks.sum(sum(one.length for one in layouts))


@dataclass(eq=False, slots=True)
class Sums:
    """Sums over the trained tokens of one update, for the metrics."""

    first: bool
    """The first update after sampling: entropy and the sampler's gap are measured in it."""
    values: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    gap_max: float = 0.0

    def begin(self) -> None:
        """Forget a first attempt."""
        self.values.clear()
        self.tokens, self.gap_max = 0, 0.0

    def means(self, ranks: Ranks) -> dict[str, float]:
        """Over the tokens of all processes."""
        everyone = ranks.gather((self.values, self.tokens, self.gap_max))
        tokens = sum(n for _, n, _ in everyone)
        found = {name: sum(values[name] for values, _, _ in everyone) / tokens for name in _names(everyone)}
        once = {"sampler/gap_max": max(gap for _, _, gap in everyone), "update/trained_tokens": float(tokens)}
        return found | (once if self.first else {})


def _names(everyone: Sequence[tuple[Counter[str], int, float]]) -> list[str]:
    """The metrics that some process has, in order; a process without passes has none."""
    return list(dict.fromkeys(name for values, _, _ in everyone for name in values))


def _loss_of(
    learner: Learner, denominators: Denominators, temperature: float, sums: Sums, batch: PolicyBatch
) -> Tensor:
    """The micro-batch's share of the step's loss; adds its metrics to `sums`."""
    logprobs_R, entropy_R = learner.runner.logprobs(batch.passes, temperature, entropy=sums.first)
    index_R = batch.packed.branch_index_R.to(logprobs_R.device)
    advantages_B = batch.advantages_B
    inputs = LossInputs(
        logprobs_R, batch.old_logprobs_R, advantages_B[index_R], index_R, len(advantages_B), batch.ref_logprobs_R
    )
    out = learner.loss(inputs, denominators)
    sums.tokens += len(logprobs_R)
    sums.values.update({name: float(value) for name, value in out.metrics.items()})
    if sums.first:
        assert entropy_R is not None
        gap_sum, gap_max = sampler_gap(logprobs_R.detach(), batch.sampler_logprobs_R)
        sums.values.update({"policy/entropy": float(entropy_R.detach().sum()), "sampler/gap_mean": gap_sum})
        sums.gap_max = max(sums.gap_max, gap_max)
    return out.loss
