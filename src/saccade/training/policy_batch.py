"""The micro-batches of a policy update: packed replies with everything that the loss reads besides their log-probs
under the policy being trained. R: loss tokens of a micro-batch; B: its completions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saccade.algorithm import Denominators, LossInputs
from saccade.models.packing import Branch, Packed
from saccade.rollout.groups import Group, Rollout
from saccade.training.step import MicroBatch, StepRunner, Unit
from saccade.types import Completion

OF_TOKENS = ("advantages_R", "sampler_logprobs_R", "old_logprobs_R", "ref_logprobs_R", "weight_R", "kept_R", "chosen_R")
"""Fields of `PolicyBatch` with one value per token, or None."""


@dataclass(frozen=True, eq=False, slots=True)
class PolicyBatch:
    """A micro-batch with what the policy loss reads besides log-probs."""

    passes: MicroBatch
    advantages_R: Tensor
    sampler_logprobs_R: Tensor
    """Not finite where the engine gave none."""
    old_logprobs_R: Tensor
    group_ids: tuple[str, ...]
    completions: tuple[Completion, ...]
    """One per branch."""
    ref_logprobs_R: Tensor | None = None
    weight_R: Tensor | None = None
    """Of the recipe's correction."""
    kept_R: Tensor | None = None
    """False for a token that leaves the loss and the denominators; None keeps all."""
    chosen_R: Tensor | None = None
    """True where the surrogate counts."""

    @property
    def packed(self) -> Packed:
        return self.passes.packed

    @property
    def index_R(self) -> Tensor:
        """The branch of each token."""
        return self.packed.branch_index_R.to(self.advantages_R.device)

    def halves(self) -> tuple[PolicyBatch, PolicyBatch]:
        """See `MicroBatch.halves`: completions and their tokens keep their order."""
        first, last = self.passes.halves()
        R = first.packed.num_tokens
        B = first.packed.num_branches
        return (
            self._part(first, slice(R), self.completions[:B]),
            self._part(last, slice(R, None), self.completions[B:]),
        )

    def _part(self, passes: MicroBatch, some_R: slice, completions: tuple[Completion, ...]) -> PolicyBatch:
        units = list(dict.fromkeys(unit for unit, _ in self.passes.members))
        ids = tuple(self.group_ids[units.index(i)] for i in dict.fromkeys(unit for unit, _ in passes.members))
        values = {name: getattr(self, name) for name in OF_TOKENS}
        cut = {name: value if value is None else value[some_R] for name, value in values.items()}
        return replace(self, passes=passes, group_ids=ids, completions=completions, **cut)

    def inputs(self, logprobs_R: Tensor, entropy_R: Tensor | None) -> LossInputs:
        """What the loss reads, of the tokens that are kept."""
        kept_R = self.kept_R

        def kept(values_R: Tensor | None) -> Tensor | None:
            return values_R if values_R is None or kept_R is None else values_R[kept_R]

        given = (logprobs_R, self.old_logprobs_R, self.advantages_R, self.index_R)
        found = [one if kept_R is None else one[kept_R] for one in given]
        return LossInputs(
            *found,
            num_branches=self.packed.num_branches,
            ref_logprobs_R=kept(self.ref_logprobs_R),
            sampler_logprobs_R=kept(self.sampler_logprobs_R),
            weight_R=kept(self.weight_R),
            entropy_R=kept(entropy_R),
            chosen_R=kept(self.chosen_R),
        )


def known_tokens(rollout: Rollout) -> int:
    """Loss tokens whose log-prob the engine gave."""
    return sum(map(math.isfinite, rollout.completion.logprobs))


def missing_tokens(groups: Sequence[Group]) -> tuple[int, int]:
    """(loss tokens without a log-prob of the engine, loss tokens) of the rollouts that contribute."""
    some = [r for group in groups for r in group.rollouts if r.contributes]
    given = sum(len(r.completion.logprobs) for r in some)
    return given - sum(map(known_tokens, some)), given


def count(groups: Sequence[Group]) -> tuple[int, int]:
    """(tokens, rollouts) that the loss of these groups divides by, as far as it is known before any pass.

    A group of equal rewards counts although its gradient is 0: excluding it would give the others more weight. A token
    without a log-prob of the engine does not count, nor does a rollout without any other.
    """
    lengths = [known_tokens(r) for group in groups for r in group.rollouts if r.contributes]
    return sum(lengths), sum(1 for length in lengths if length)


def count_kept(batches: Sequence[PolicyBatch]) -> tuple[int, int]:
    """As `count`, of micro-batches with every rollout that contributes, after a correction that drops tokens."""
    tokens = rollouts = 0
    for batch in batches:
        kept_R = torch.ones_like(batch.index_R, dtype=torch.bool) if batch.kept_R is None else batch.kept_R
        tokens += int(kept_R.sum())
        rollouts += len(batch.index_R[kept_R].unique())
    return tokens, rollouts


def denominators_of(counts: tuple[float, float], max_length: int) -> Denominators | None:
    """Of the counts of all processes; None when nothing contributes."""
    tokens, sequences = map(int, counts)
    return Denominators(tokens, sequences, max_length) if sequences else None


def trained_rollouts(groups: Sequence[Group], include_zero_advantage: bool) -> list[tuple[Group, list[Rollout]]]:
    """Groups with the rollouts that need a pass; those without a gradient (advantage 0 and no other term) do not."""
    found = [
        (group, [r for r in group.rollouts if r.contributes and (has_gradient(r) or include_zero_advantage)])
        for group in groups
    ]
    return [(group, members) for group, members in found if members]


def has_gradient(rollout: Rollout) -> bool:
    """Whether some token has an advantage."""
    return rollout.advantage != 0.0 or any(rollout.token_advantages or ())


def cut_groups(
    groups: Sequence[Group], runner: StepRunner[PolicyBatch], include_zero_advantage: bool
) -> list[PolicyBatch]:
    """The micro-batches of groups, with their tensors."""
    found = trained_rollouts(groups, include_zero_advantage)
    units = [
        Unit(group.prompt, tuple(Branch(r.completion.token_ids, r.completion.spans) for r in members))
        for group, members in found
    ]
    return [_policy_batch(passes, found, runner.policy.device) for passes in runner.cut(units)]


def _policy_batch(
    passes: MicroBatch, found: Sequence[tuple[Group, list[Rollout]]], device: torch.device
) -> PolicyBatch:
    rollouts = [found[unit][1][k] for unit, k in passes.members]
    sampler_R = torch.tensor([one for r in rollouts for one in r.completion.logprobs], device=device)
    if len(sampler_R) != passes.packed.num_tokens:
        raise ValueError(
            f"the engine gave {len(sampler_R)} log-probs for {passes.packed.num_tokens} tokens; expected equal"
        )
    known_R = torch.isfinite(sampler_R)
    return PolicyBatch(
        passes=passes,
        advantages_R=_advantages(rollouts, passes.packed).to(device),
        sampler_logprobs_R=sampler_R,
        old_logprobs_R=sampler_R,
        group_ids=tuple(dict.fromkeys(found[unit][0].id for unit, _ in passes.members)),
        completions=tuple(r.completion for r in rollouts),
        kept_R=None if bool(known_R.all()) else known_R,
    )


def _advantages(rollouts: Sequence[Rollout], packed: Packed) -> Tensor:
    if any(r.token_advantages is not None for r in rollouts):
        values = [r.token_advantages or (r.advantage,) * r.completion.loss_tokens for r in rollouts]
        return torch.tensor([one for of in values for one in of], dtype=torch.float32)
    return torch.tensor([r.advantage for r in rollouts], dtype=torch.float32)[packed.branch_index_R]
