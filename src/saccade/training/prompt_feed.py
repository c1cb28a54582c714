"""Prompts of the next step, decoded and encoded in threads while the model works on this one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from saccade.data import Mixture, Prefetch
from saccade.models.adapter import Adapter
from saccade.rollout.prompts import Prompt, prepare


class PromptFeed:
    """`feed(step, round, n)`: n prepared prompts, a pure function of its arguments and the mixture's seed.

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
        workers: int = 1,
    ) -> None:
        """`rounds` is the most that one step may request; each has its own place in the mixture's stream. `workers`
        threads prepare the prompts of a step."""
        self._mixture, self._adapter, self._rounds = mixture, adapter, rounds
        self._template, self._num_steps, self._system_prompt = template, num_steps, system_prompt
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
        self._ahead: tuple[int, Prefetch[tuple[Prompt, ...]]] | None = None

    def __call__(self, step: int, number: int, n: int) -> tuple[Prompt, ...]:
        return self._prefetch(n)(step) if number == 0 else self._prepare(step, number, n)

    def close(self) -> None:
        self._stop_ahead()
        self._workers.shutdown(cancel_futures=True)

    def _stop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead[1].close()
            self._ahead = None

    def _prefetch(self, n: int) -> Prefetch[tuple[Prompt, ...]]:
        """The thread for steps of n prompts; a stage with another n starts a new one."""
        if self._ahead is None or self._ahead[0] != n:
            self._stop_ahead()
            self._ahead = (n, Prefetch(lambda step: self._prepare(step, 0, n), stop=self._num_steps))
        return self._ahead[1]

    def _prepare(self, step: int, number: int, n: int) -> tuple[Prompt, ...]:
        samples = self._mixture.draw(step * self._rounds + number, n)
        one = partial(prepare, self._adapter, template=self._template, system_prompt=self._system_prompt)
        return tuple(self._workers.map(one, samples))
