"""The parity meter of a run: replies whose log-probs are too far from the trainer's, and the likely cause of each.

A reply is measured before the first update, against the weights that sampled it. R: loss tokens of a micro-batch.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from torch import Tensor

from saccade.models.policy import Policy
from saccade.rollout.groups import Group
from saccade.training.policy_batch import PolicyBatch
from saccade.training.ranks import Ranks
from saccade.types import Completion
from saccade.verify.causes import bound_of, likely_causes

log = logging.getLogger(__name__)

MOST = 32
"""Replies of a step and a process whose cause is looked for: each takes some forward passes."""
OTHERS = 4
"""Other prompts of the micro-batch whose pictures are tried."""


@dataclass(eq=False)
class ParityMeter:
    """What an update has found about its replies; `saccade verify` makes the same diagnosis."""

    causes: dict[tuple[str, int], str] = field(default_factory=dict)
    """(group id, place in the group) -> likely cause, of all processes, after `close`."""
    _found: dict[int, str] = field(default_factory=dict)
    """By the identity of the completion."""

    def begin(self) -> None:
        """Forget the last update."""
        self.causes, self._found = {}, {}

    def look(self, policy: Policy, batch: PolicyBatch, logprobs_R: Tensor, temperature: float) -> None:
        """Finds the causes for a micro-batch, given the trainer's log-probs. Replies of older weights are passed over:
        theirs have to differ."""
        far_R = (logprobs_R.detach() - batch.sampler_logprobs_R).abs() > bound_of(policy)
        far = set(batch.index_R[far_R].tolist())
        prompts = batch.packed.prompts
        starts = [0, *accumulate(map(len, batch.packed.branches))]
        for i, prompt in enumerate(prompts):
            places = [b for b in range(starts[i], starts[i + 1]) if b in far]
            replies = [one for one in map(batch.completions.__getitem__, places) if self._counts(one, policy)]
            replies = replies[: max(0, MOST - len(self._found))]
            if replies:
                others = [one for one in prompts if one is not prompt][:OTHERS]
                causes = likely_causes(policy, prompt, replies, temperature, others)
                self._found |= {id(reply): cause for reply, (cause, _) in zip(replies, causes, strict=True)}

    def _counts(self, reply: Completion, policy: Policy) -> bool:
        return reply.weights_version == policy.version and id(reply) not in self._found

    def close(self, groups: Sequence[Group], ranks: Ranks) -> dict[str, float]:
        """Collects what all processes found about these groups; returns `sampler/cause/<name>`, numbers of replies, and
        says so."""
        mine = {
            (group.id, i): self._found[id(r.completion)]
            for group in groups
            for i, r in enumerate(group.rollouts)
            if id(r.completion) in self._found
        }
        self.causes = {place: cause for one in ranks.gather(mine) for place, cause in one.items()}
        counts = Counter(self.causes.values())
        if counts:
            shown = ", ".join(f"{cause} {n}" for cause, n in counts.most_common())
            log.warning(
                "the engine's log-probs of %d replies are too far from the trainer's; likely causes: %s "
                "(sampler_cause in rollouts.jsonl; docs/engines.md)",
                *(len(self.causes), shown),
            )
        return {f"sampler/cause/{cause}": float(n) for cause, n in counts.items()}

    def marked(self, groups: Sequence[Group]) -> tuple[Group, ...]:
        """The groups with the cause beside each rollout that has one."""
        if not self.causes:
            return tuple(groups)
        return tuple(
            replace(
                group,
                rollouts=tuple(
                    replace(r, sampler_cause=self.causes.get((group.id, i))) for i, r in enumerate(group.rollouts)
                ),
            )
            for group in groups
        )
