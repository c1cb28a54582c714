"""The group: one prompt with its G scored completions, kept together from sampling to gradient."""

from __future__ import annotations

from dataclasses import dataclass

from saccade.rollout.prompts import Prompt
from saccade.types import Completion, Sample, Score


@dataclass(frozen=True, slots=True)
class Rollout:
    """A scored completion. The advantage is 0 until the groups of the step are centered."""

    completion: Completion
    score: Score
    advantage: float = 0.0
    """One for all of its tokens; their mean when they differ."""
    token_advantages: tuple[float, ...] | None = None
    """One per loss token, where credit is assigned by token."""
    kl_penalties: tuple[float, ...] = ()
    """One per loss token: what a KL in the reward takes off; empty without one."""
    sampler_cause: str | None = None
    """Why the engine's log-probs are beyond the bound from the trainer's; None when they are not."""

    @property
    def contributes(self) -> bool:
        """True when the rollout is part of the loss: not masked, and at least one token long."""
        return self.score.masked is None and bool(self.completion.token_ids)


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt with its G rollouts."""

    id: str
    """Unique in the run."""
    prompt: Prompt
    rollouts: tuple[Rollout, ...]

    @property
    def sample(self) -> Sample:
        """The prompt's sample. ValueError for a prompt without one."""
        if self.prompt.sample is None:
            raise ValueError(f"group {self.id}: its prompt has no sample")
        return self.prompt.sample

    @property
    def rewards(self) -> list[float]:
        """Rewards of the rollouts that are not masked."""
        return [r.score.value for r in self.rollouts if r.score.masked is None]

    @property
    def has_signal(self) -> bool:
        """False when all advantages are 0, so the group has no gradient."""
        return any(r.advantage != 0.0 for r in self.rollouts)
