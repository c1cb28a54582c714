"""The policy update: groups with advantages -> one optimizer step (or several). It uses only log-probs, advantages and
denominators, and is independent of tasks and rewards. R: loss tokens of a micro-batch; B: its completions.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from saccade.algorithm import Denominators, sampler_gap
from saccade.algorithm.loss import WEIGHT, WEIGHT_SQUARED, sampler_sums
from saccade.rollout.groups import Group
from saccade.training.before_update import open_parts
from saccade.training.learner import Learner
from saccade.training.policy_batch import PolicyBatch, missing_tokens
from saccade.training.ranks import Ranks

log = logging.getLogger(__name__)


def policy_step(
    learner: Learner,
    groups: Sequence[Group],
    *,
    temperature: float,
    max_length: int,
    lr: float,
    order: Sequence[str] | None = None,
) -> dict[str, float]:
    """Updates the policy on `groups`; returns metrics. With nothing to learn from, `update/skipped` is 1.

    `temperature` is the sampling temperature, `max_length` the cap on new tokens (for the constant aggregation), and
    `order` is that of `parts_of`. `learner.parity` has the likely causes of log-probs that are too far from the
    trainer's. ValueError when the engine gave no log-prob at all.
    """
    runner = learner.runner
    missing = check_missing(groups, runner.ranks)
    learner.parity.begin()
    parts = open_parts(learner, groups, temperature, max_length, order)
    if not parts:
        return {"update/skipped": 1.0, "update/nonfinite": 0.0, "update/trained_tokens": 0.0} | missing
    metrics: dict[str, float] = {}
    nonfinite, norms, trained = 0, [], 0.0
    for update in range(learner.config.updates_per_rollout):
        for number, part in enumerate(parts):
            sums = Sums(first=update == number == 0)
            loss_of = partial(_loss_of, learner, part.denominators, temperature, sums)
            keep = None if learner.dump is None else partial(learner.dump, part.batches)
            result = runner.step(part.batches, loss_of, lr, keep, sums.begin)
            nonfinite += int(not result.stepped)
            norms.append(result.grad_norm)
            # entropy and sampler gap are those of the policy that sampled; ratios and clips tell most at the end
            means, tokens = sums.means(runner.ranks)
            metrics |= means | {"policy/loss": result.loss}
            trained += tokens if update == 0 else 0.0
    assert runner.choice is not None
    packed, batches = runner.choice.path == "packed", [batch for part in parts for batch in part.batches]
    return (
        metrics
        | {
            "update/trained_tokens": trained,
            "policy/grad_norm": sum(norms) / len(norms),
            "policy/lr": lr,
            "update/skipped": float(nonfinite == len(norms)),
            "update/nonfinite": float(nonfinite),
            "update/micro_batches": float(runner.ranks.sum(len(batches))),
            "update/packed": float(packed),
            "update/saving": token_savings(batches, runner.ranks) if packed else 1.0,
        }
        | missing
        | learner.parity.close(groups, runner.ranks)
    )


def check_missing(groups: Sequence[Group], ranks: Ranks) -> dict[str, float]:
    """`sampler/missing`, the loss tokens without a log-prob of the engine, if there are any: they leave the loss and
    its denominators, and the run says so. ValueError when all are missing."""
    missing, given = (ranks.sum(n) for n in missing_tokens(groups))
    if not missing:
        return {}
    if missing == given:
        raise ValueError(
            f"the engine gave no log-prob for any of the {given:g} tokens of the step, so there is no ratio to train "
            "with; expected one finite number per token: let the server return log-probs of the sampled tokens"
        )
    log.warning(
        "the engine gave no log-prob for %d of %d tokens: they leave the loss and its denominators", missing, given
    )
    return {"sampler/missing": float(missing)}


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

    def means(self, ranks: Ranks) -> tuple[dict[str, float], float]:
        """Over the tokens of all processes, and their number."""
        everyone = ranks.gather((self.values, self.tokens, self.gap_max))
        tokens = sum(n for _, n, _ in everyone)
        found = {name: sum(values[name] for values, _, _ in everyone) / max(1, tokens) for name in _names(everyone)}
        weight, square = (found.pop(name, 0.0) for name in (WEIGHT, WEIGHT_SQUARED))
        if square:
            found["sampler/ess"] = weight**2 / square
        once = {"sampler/gap_max": max(gap for _, _, gap in everyone)}
        return found | (once if self.first else {}), float(tokens)


def _names(everyone: Sequence[tuple[Counter[str], int, float]]) -> list[str]:
    """The metrics that some process has, in order; a process without passes has none."""
    return list(dict.fromkeys(name for values, _, _ in everyone for name in values))


def _loss_of(
    learner: Learner, denominators: Denominators, temperature: float, sums: Sums, batch: PolicyBatch
) -> Tensor:
    """The micro-batch's share of the step's loss; adds its metrics to `sums`."""
    entropy = "gradient" if learner.objective.entropy_coef > 0 else sums.first
    logprobs_R, entropy_R = learner.runner.logprobs(batch.passes, temperature, entropy=entropy)
    inputs = batch.inputs(logprobs_R, entropy_R)
    out = learner.loss(inputs, denominators)
    sums.tokens += len(inputs.logprobs_R)
    sums.values.update({name: float(value) for name, value in out.metrics.items()})
    if sums.first:
        assert inputs.entropy_R is not None and inputs.sampler_logprobs_R is not None
        gap_sum, gap_max = sampler_gap(inputs.logprobs_R.detach(), inputs.sampler_logprobs_R)
        sums.values.update({"policy/entropy": float(inputs.entropy_R.detach().sum()), "sampler/gap_mean": gap_sum})
        sums.values.update(sampler_sums(inputs.logprobs_R.detach(), inputs.sampler_logprobs_R))
        sums.gap_max = max(sums.gap_max, gap_max)
        # sharded weights are whole only before the update; there a run that recomputes has looked already
        if learner.config.old_logprobs == "sampler" and learner.runner.policy.shards is None:
            learner.parity.look(learner.runner.policy, batch, logprobs_R, temperature)
    return out.loss
