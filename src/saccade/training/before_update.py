"""What is computed before the first update on a rollout and stays fixed during all of them: mini-batches with their
denominators, log-probs of the reference and of the policy that sampled, corrections, the tokens that count. R: loss
tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from saccade.algorithm import Denominators
from saccade.algorithm.correction import Correction
from saccade.algorithm.kl import kl_penalties
from saccade.rollout.groups import Group
from saccade.training.learner import Learner
from saccade.training.policy_batch import PolicyBatch, count, count_kept, cut_groups, denominators_of


def parts_of(groups: Sequence[Group], mini_batches: int, order: Sequence[str] | None) -> list[list[Group]]:
    """The groups of each mini-batch. `order` has the ids of the groups of all processes, whose places decide: the parts
    do not depend on the number of processes."""
    ids = [group.id for group in groups] if order is None else list(order)
    part = {name: place * mini_batches // len(ids) for place, name in enumerate(ids)}
    return [[group for group in groups if part[group.id] == i] for i in range(mini_batches)]


@dataclass(frozen=True, slots=True)
class Part:
    """A mini-batch: what one optimizer step reads."""

    batches: list[PolicyBatch]
    denominators: Denominators


def count_denominators(groups: Sequence[Group], max_length: int, learner: Learner) -> Denominators | None:
    """The denominators of an update over all processes, before any pass; None when no rollout contributes."""
    return over_processes(count(groups), max_length, learner)


def over_processes(counts: tuple[int, int], max_length: int, learner: Learner) -> Denominators | None:
    tokens, sequences = (learner.runner.ranks.sum(n) for n in counts)
    return denominators_of((tokens, sequences), max_length)


def cut(groups: Sequence[Group], learner: Learner) -> list[PolicyBatch]:
    """The micro-batches of an update with their tensors."""
    return cut_groups(groups, learner.runner, learner.objective.reads_every_token)


def open_parts(
    learner: Learner, groups: Sequence[Group], temperature: float, max_length: int, order: Sequence[str] | None
) -> list[Part]:
    """The mini-batches that have something to learn from, with all that stays fixed during the updates."""
    runner, objective = learner.runner, learner.objective
    parts: list[Part] = []
    for some in parts_of(groups, learner.config.mini_batches, order):
        denominators = count_denominators(some, max_length, learner)
        batches = cut(some, learner) if denominators is not None else []
        if denominators is not None and runner.ranks.max(len(batches)):
            parts.append(Part(batches, denominators))
    with whole_weights(learner):
        fixed = partial(fix_logprobs, learner, temperature=temperature)
        parts = [replace(part, batches=runner.each(part.batches, fixed)) for part in parts]
        if objective.top_entropy < 1 and parts:
            parts = choose_tokens(learner, parts, temperature)
    if objective.correction is None or not objective.correction.drops:
        return parts
    counted = [over_processes(count_kept(part.batches), max_length, learner) for part in parts]
    return [Part(part.batches, one) for part, one in zip(parts, counted, strict=True) if one is not None]


@torch.no_grad()
def fix_logprobs(learner: Learner, batch: PolicyBatch, temperature: float) -> PolicyBatch:
    """The batch with what stays fixed during the updates: the reference's log-probs, and the old ones if recomputed,
    with the correction that follows from them."""
    if learner.objective.charges_kl and learner.reference is not None:
        ref_R, _ = learner.runner.logprobs(batch.passes, temperature, policy=learner.reference)
        batch = replace(batch, ref_logprobs_R=ref_R)
    if learner.config.old_logprobs == "recompute":
        batch = replace(batch, old_logprobs_R=learner.runner.logprobs(batch.passes, temperature)[0])
        learner.parity.look(learner.runner.policy, batch, batch.old_logprobs_R, temperature)
        batch = corrected(batch, learner.correction)
    return batch


def corrected(batch: PolicyBatch, correction: Correction) -> PolicyBatch:
    """The batch with the weights of a correction, and without the tokens that it drops."""
    gap_R = batch.old_logprobs_R - batch.sampler_logprobs_R
    known_R = torch.ones_like(gap_R, dtype=torch.bool) if batch.kept_R is None else batch.kept_R
    weight_R, kept_R = correction(gap_R[known_R], batch.index_R[known_R], batch.packed.num_branches)
    if weight_R is not None:
        batch = replace(batch, weight_R=torch.ones_like(gap_R).masked_scatter(known_R, weight_R.to(gap_R.dtype)))
    if kept_R is not None:
        batch = replace(batch, kept_R=known_R.masked_scatter(known_R, kept_R))
    return batch


@torch.no_grad()
def choose_tokens(learner: Learner, parts: Sequence[Part], temperature: float) -> list[Part]:
    """Marks the share `top_entropy` of the step's tokens, over all processes, whose next-token distribution has the
    highest entropy before the first update (arXiv:2506.01939)."""
    runner, entropies = learner.runner, [torch.zeros(0)]

    def measured(batch: PolicyBatch) -> PolicyBatch:
        entropy_R = runner.logprobs(batch.passes, temperature, entropy=True)[1]
        assert entropy_R is not None
        entropies.append((entropy_R if batch.kept_R is None else entropy_R[batch.kept_R]).float().cpu())
        return replace(batch, chosen_R=entropy_R)

    def marked(batch: PolicyBatch, threshold: float) -> PolicyBatch:
        assert batch.chosen_R is not None  # measured
        return replace(batch, chosen_R=batch.chosen_R >= threshold)

    found = [replace(part, batches=runner.each(part.batches, measured)) for part in parts]
    everyone = torch.cat(runner.ranks.gather(torch.cat(entropies))).sort().values
    place = (1.0 - learner.objective.top_entropy) * (len(everyone) - 1)
    low, high = everyone[int(place)], everyone[min(int(place) + 1, len(everyone) - 1)]
    threshold = float(low + (place - int(place)) * (high - low))
    return [replace(part, batches=[marked(batch, threshold) for batch in part.batches]) for part in found]


@contextmanager
def whole_weights(learner: Learner) -> Iterator[None]:
    """For passes without gradient: processes have different numbers of batches, so each computes on its own."""
    with ExitStack() as stack:
        if learner.reference is not None:
            stack.enter_context(learner.reference.whole())
        if learner.config.old_logprobs == "recompute" or learner.objective.top_entropy < 1:
            stack.enter_context(learner.runner.policy.whole())
        yield


@torch.no_grad()
def kl_in_reward(learner: Learner, groups: Sequence[Group], temperature: float) -> dict[str, list[tuple[float, ...]]]:
    """By group id, for each rollout what a KL in the reward takes off at each loss token; () for one that does not
    contribute. The policy's log-probs are those of the sampler."""
    objective, runner, policy = learner.objective, learner.runner, learner.reference
    assert policy is not None  # a KL is charged
    found: dict[str, list[tuple[float, ...]]] = {group.id: [() for _ in group.rollouts] for group in groups}
    numbers = {group.id: [k for k, r in enumerate(group.rollouts) if r.contributes] for group in groups}

    def measured(batch: PolicyBatch) -> PolicyBatch:
        ref_R, _ = runner.logprobs(batch.passes, temperature, policy=policy)
        taken_R = kl_penalties(objective.kl, objective.kl_coef, batch.sampler_logprobs_R, ref_R)
        lengths = batch.index_R.bincount(minlength=batch.packed.num_branches).tolist()
        units = list(dict.fromkeys(unit for unit, _ in batch.passes.members))
        for (unit, k), one_T in zip(batch.passes.members, taken_R.split(lengths), strict=True):
            name = batch.group_ids[units.index(unit)]
            found[name][numbers[name][k]] = tuple(one_T.tolist())
        return batch

    batches = cut_groups(groups, runner, include_zero_advantage=True)
    with policy.whole():
        runner.each(batches, measured)
    return found
