"""What a policy update needs: the policy with its passes, the loss, and the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from saccade.algorithm import Loss, LossConfig, build_loss
from saccade.algorithm.correction import Correction, none
from saccade.models.policy import Policy
from saccade.training.config import UpdateConfig
from saccade.training.optim import GuardedOptimizer
from saccade.training.parity import ParityMeter
from saccade.training.policy_batch import PolicyBatch
from saccade.training.ranks import ONE, Ranks
from saccade.training.step import StepRunner


@dataclass(eq=False)
class Learner:
    """Everything that an update touches."""

    runner: StepRunner[PolicyBatch]
    loss: Loss
    objective: LossConfig
    """What `loss` was built from."""
    config: UpdateConfig
    """Resolved."""
    reference: Policy | None = None
    """Frozen, or the policy with its adapters off; only when a KL is charged."""
    dump: Callable[[Sequence[PolicyBatch]], None] | None = None
    """Keeps a batch whose loss or gradient is not finite."""
    parity: ParityMeter = field(default_factory=ParityMeter)

    @property
    def correction(self) -> Correction:
        return none if self.objective.correction is None else self.objective.correction.build()


def open_learner(
    policy: Policy,
    optimizer: GuardedOptimizer,
    loss: LossConfig,
    update: UpdateConfig,
    reference: Policy | None = None,
    dump: Callable[[Sequence[PolicyBatch]], None] | None = None,
    ranks: Ranks = ONE,
) -> Learner:
    """The learner of a recipe's `loss` and `update` sections; a correction that the loss leaves open is none."""
    update = update.resolved(loss)
    runner = StepRunner[PolicyBatch](policy, optimizer, update.tokens_per_micro_batch, update.shared_prefix, ranks)
    return Learner(runner, build_loss(loss), loss, update, reference, dump)
