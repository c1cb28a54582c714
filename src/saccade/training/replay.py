"""Selective sample replay (VL-Rethinker, arXiv:2504.08837): replies of earlier steps that had an advantage take the
places of replies without one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from saccade.rollout.groups import Group, Rollout
from saccade.rollout.prompts import Prompt
from saccade.training.policy_batch import has_gradient
from saccade.training.stored_groups import group_from, plain_rollout, same_samples
from saccade.training.update_config import ReplayConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """A reply of an earlier step."""

    group_id: str
    position: int
    """Of its prompt in the stream of samples."""
    prompt: Prompt
    rollout: Rollout


@dataclass(eq=False)
class Replay:
    """The replies that may be replayed, the same in every process."""

    config: ReplayConfig
    entries: tuple[Entry, ...] = field(default=())
    """Oldest first."""

    def fill(self, groups: Sequence[Group], seed: int) -> tuple[list[Group], list[Group]]:
        """(the groups of a step, replayed groups). As many replies as there are replies without an advantage, or as are
        kept, are drawn without replacement with probability proportional to |A|^alpha; as many of those without an
        advantage leave the step."""
        free = sum(_is_free(rollout) for group in groups for rollout in group.rollouts)
        number = min(free, len(self.entries))
        if not number:
            return list(groups), []
        weights = np.array([abs(_advantage(entry.rollout)) for entry in self.entries]) ** self.config.alpha
        chance = np.random.default_rng(seed).choice(len(weights), number, replace=False, p=weights / weights.sum())
        by_group: dict[str, list[Entry]] = {}
        for place in sorted(chance.tolist()):
            by_group.setdefault(self.entries[place].group_id, []).append(self.entries[place])
        replayed = [
            Group(f"replayed {name}", some[0].prompt, tuple(entry.rollout for entry in some))
            for name, some in by_group.items()
        ]
        return _without_free(groups, number), replayed

    def add(self, groups: Sequence[Group], positions: Mapping[str, int]) -> None:
        """Keeps the replies of a step that have an advantage; their prompts must have their images."""
        fresh = [
            Entry(group.id, positions[group.id], replace(group.prompt, features=None), rollout)
            for group in groups
            for rollout in group.rollouts
            if rollout.contributes and has_gradient(rollout)
        ]
        self.entries = (*self.entries, *fresh)[-self.config.size :]

    def stored(self) -> list[dict[str, Any]]:
        """The entries as plain data."""
        return [
            {"id": one.group_id, "position": one.position, "sample": one.prompt.name}
            | {"rollouts": [plain_rollout(one.rollout)]}
            for one in self.entries
        ]

    def restore(self, data: Sequence[Mapping[str, Any]], prompts: Sequence[Prompt], accepted: bool) -> None:
        """The entries of a checkpoint, with the prompts at their positions; those of other samples, where that was
        `accepted`, are dropped aloud."""
        same = same_samples(data, prompts, accepted)
        found = [(one, group_from(one, prompt)) for one, prompt, kept in zip(data, prompts, same, strict=True) if kept]
        if not all(same):
            dropped = len(data) - len(found)
            log.warning("%d of %d replies to replay are dropped: the data changed in their places", dropped, len(data))
        self.entries = tuple(Entry(g.id, one["position"], g.prompt, g.rollouts[0]) for one, g in found)


def _advantage(rollout: Rollout) -> float:
    if rollout.token_advantages:
        return sum(map(abs, rollout.token_advantages)) / len(rollout.token_advantages)
    return rollout.advantage


def _is_free(rollout: Rollout) -> bool:
    return rollout.contributes and not has_gradient(rollout)


def _without_free(groups: Sequence[Group], number: int) -> list[Group]:
    """The groups without the first `number` replies that have no advantage."""
    left, found = number, []
    for group in groups:
        kept = []
        for rollout in group.rollouts:
            if left and _is_free(rollout):
                left -= 1
            else:
                kept.append(rollout)
        found.append(replace(group, rollouts=tuple(kept)))
    return [group for group in found if group.rollouts]
