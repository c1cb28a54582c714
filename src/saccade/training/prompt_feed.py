"""Prompts of the next step, decoded and encoded in a thread while the model works on this one."""

from __future__ import annotations

from saccade.data import Mixture, Prefetch
from saccade.models.adapter import Adapter
from saccade.rollout.prompts import Prompt, prepare
from saccade.training.ranks import ONE, Ranks
from saccade.types import Sample


class PromptFeed:
    """`feed(step, round, n)`: this process's share of n prepared prompts, a pure function of its arguments and the
    mixture's seed.

    Round 0 is prepared one step ahead; the later rounds of dynamic sampling are prepared on request.
    """

    def __init__(
        self,
        mixture: Mixture,
        adapter: Adapter,
        rounds: int,
        template: str | None,
        num_steps: int,
        system_prompt: str | None = None,
        ranks: Ranks = ONE,
    ) -> None:
        """`rounds` is the most that one step may request; each has its own place in the mixture's stream."""
        self._mixture, self._adapter, self._rounds = mixture, adapter, rounds
        self._template, self._num_steps, self._system_prompt = template, num_steps, system_prompt
        self._ranks = ranks
        self._ahead: tuple[int, Prefetch[tuple[Prompt, ...]]] | None = None

    def __call__(self, step: int, number: int, n: int) -> tuple[Prompt, ...]:
        return self._prefetch(n)(step) if number == 0 else self._prepare(step, number, n)

    def one(self, step: int, number: int, n: int, place: int) -> Prompt:
        """The prompt at `place` of the round, whichever process it was shared out to."""
        return self._prompt(self._draw(step, number, n)[place])

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead[1].close()
            self._ahead = None

    def _prefetch(self, n: int) -> Prefetch[tuple[Prompt, ...]]:
        """The thread for steps of n prompts; a stage with another n starts a new one."""
        if self._ahead is None or self._ahead[0] != n:
            self.close()
            self._ahead = (n, Prefetch(lambda step: self._prepare(step, 0, n), stop=self._num_steps))
        return self._ahead[1]

    def _prepare(self, step: int, number: int, n: int) -> tuple[Prompt, ...]:
        share = self._ranks.mine(self._draw(step, number, n))
        return tuple(self._prompt(sample) for sample in share)

    def _draw(self, step: int, number: int, n: int) -> list[Sample]:
        return self._mixture.draw(step * self._rounds + number, n)

    def _prompt(self, sample: Sample) -> Prompt:
        return prepare(self._adapter, sample, self._template, self._system_prompt)
