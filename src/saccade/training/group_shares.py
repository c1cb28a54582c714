"""Groups over several processes: every process knows the replies and scores of all groups, so that all of them decide
alike, and trains on its own share of them.

A group is generated in one process, which alone reads its images, and stays whole; it moves to another for training
only where that evens out the work, since that process must prepare its prompt again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from saccade.models.adapter import EncodedPrompt
from saccade.rollout.groups import Group
from saccade.rollout.prompts import Prompt
from saccade.training.batching import shared_cost
from saccade.training.ranks import Ranks
from saccade.types import Sample

TOLERANCE = 0.1
"""Groups are moved while the heaviest process has more work than the lightest by this share of the mean."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a group comes from."""

    number: int
    """The round of dynamic sampling."""
    place: int
    """Its prompt's number in the round."""
    cost: int
    """Of its packed row, in tokens of the language model."""


@dataclass(eq=False)
class GroupShares:
    """The groups of one step over the processes."""

    ranks: Ranks
    vision_cost: Callable[[EncodedPrompt], int]
    prepare: Callable[[Sample], Prompt]
    """Makes the prompt of a group from another process."""
    rounds: dict[int, Sequence[Prompt | Sample]] = field(default_factory=dict)
    """This process's prompts of each round, and the samples of the others."""
    placed: dict[str, Placed] = field(default_factory=dict)
    """By the groups' ids."""

    def places(self, n: int) -> list[int]:
        """Which of the n prompts of a round this process generates for."""
        return self.ranks.mine(range(n))

    def share(self, number: int, prompts: Sequence[Prompt | Sample]) -> list[Prompt]:
        """The prompts of a round that this process generates for; all of them are kept for the step."""
        if self.ranks.size > 1:
            self.rounds[number] = prompts
        return [one for one in self.ranks.mine(prompts) if isinstance(one, Prompt)]  # all of them are

    def gather(self, groups: Sequence[Group], number: int) -> list[Group]:
        """The groups of a round from all processes, in order. Those of other processes come without images."""
        if self.ranks.size == 1:
            return list(groups)
        costs = [self._cost(group) for group in groups]
        shares = self.ranks.gather([(_light(group), cost) for group, cost in zip(groups, costs, strict=True)])
        shares[self.ranks.rank] = list(zip(groups, costs, strict=True))
        merged = self.ranks.merge(shares)
        self.placed |= {group.id: Placed(number, place, cost) for place, (group, cost) in enumerate(merged)}
        return [group for group, _ in merged]

    def mine(self, groups: Sequence[Group]) -> list[Group]:
        """The groups that this process trains on, with their images."""
        if self.ranks.size == 1:
            return list(groups)
        facts = [self.placed[group.id] for group in groups]
        homes = [one.place % self.ranks.size for one in facts]
        owners = balanced([one.cost for one in facts], homes, self.ranks.size)
        return [self.with_images(g) for g, owner in zip(groups, owners, strict=True) if owner == self.ranks.rank]

    def with_images(self, group: Group) -> Group:
        """The group with its images, also when it comes from another process."""
        one = self.placed.get(group.id)
        if one is None or one.place % self.ranks.size == self.ranks.rank:
            return group
        found = self.rounds[one.number][one.place]
        return replace(group, prompt=found if isinstance(found, Prompt) else self.prepare(found))

    def _cost(self, group: Group) -> int:
        prompt = group.prompt.encoded
        replies = [len(rollout.completion.token_ids) for rollout in group.rollouts]
        return shared_cost(len(prompt) + self.vision_cost(prompt), replies)


def _light(group: Group) -> Group:
    """The group without pixels, images and features, to be sent."""
    encoded = replace(group.prompt.encoded, pixels={}, positions_3P=group.prompt.encoded.positions_3P[:, :0])
    return replace(group, prompt=Prompt(replace(group.sample, images=()), encoded))


def balanced(costs: Sequence[int], homes: Sequence[int], size: int) -> list[int]:
    """The process of each group: its home, except for the few that must move to even out the sums of costs."""
    owners, loads = list(homes), [0] * size
    for cost, home in zip(costs, homes, strict=True):
        loads[home] += cost
    while True:
        heavy, light = loads.index(max(loads)), loads.index(min(loads))
        gap = loads[heavy] - loads[light]
        movable = [i for i, owner in enumerate(owners) if owner == heavy and 0 < costs[i] < gap]
        if not movable or gap <= TOLERANCE * sum(loads) / size:
            return owners
        best = min(movable, key=lambda i: (abs(gap - 2 * costs[i]), i))  # each move makes the two more alike
        owners[best] = light
        loads[heavy] -= costs[best]
        loads[light] += costs[best]
