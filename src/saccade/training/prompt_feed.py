"""Prompts of the next round, decoded and encoded in a thread while the model works on this one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from saccade.data import Mixture
from saccade.rollout.prompts import Prompt
from saccade.training.ranks import ONE, Ranks
from saccade.types import Sample

log = logging.getLogger(__name__)

Prepare = Callable[[Sample], Prompt]
"""Reads and encodes a sample; ValueError, with its place, for one that is unusable."""
Round = tuple[tuple[Prompt | Sample, ...], Mapping[str, Any]]
"""Prompts, with the samples of other processes as they are, and the state after them."""


class PromptFeed:
    """`feed(n)`: the next n prepared prompts of a mixture's stream, whatever n was before. Of several processes each
    prepares its share (`Ranks.mine`), and the others' places hold their samples.

    A sample that proves unusable is skipped with a warning, and replaced, where its source has `on_bad: skip`.
    """

    def __init__(
        self,
        mixture: Mixture,
        prepare: Prepare,
        state: Mapping[str, Any] | None = None,
        workers: int = 1,
        ranks: Ranks = ONE,
    ) -> None:
        """`state` is that of a checkpoint, see `state`; `workers` threads prepare the prompts of a round."""
        self._mixture, self.prepare, self._ranks = mixture, prepare, ranks
        self.state: Mapping[str, Any] = {"position": 0, "skipped": {}} if state is None else state
        """The position in the stream and the rows skipped before it, for a checkpoint."""
        mixture.restore(self.state["skipped"])
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
        self._ahead: tuple[int, Future[Round | None]] | None = None

    def __call__(self, n: int, ahead: bool = True) -> tuple[Prompt | Sample, ...]:
        """`ahead`: begin to prepare n more, which the next call returns if it asks for as many."""
        position = int(self.state["position"])
        future = self._ahead[1] if self._ahead is not None and self._ahead[0] == n else self._submit(n)
        found = future.result()
        if self._ranks.max(int(found is None)) or found is None:  # all must skip the same rows
            found = self._pool.submit(self._one_by_one, position, n).result()
        prompts, self.state = found
        self._ahead = (n, self._submit(n)) if ahead else None
        return prompts

    def again(self, positions: Sequence[int]) -> tuple[Prompt, ...]:
        """The prompts at positions of the stream that were drawn before; does not move the feed."""
        return self._pool.submit(lambda: tuple(self._usable(one) for one in positions)).result()

    @property
    def skipped(self) -> int:
        """Rows that were skipped when their turn came."""
        return sum(map(len, self.state["skipped"].values()))

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._workers.shutdown(wait=True, cancel_futures=True)

    def _submit(self, n: int) -> Future[Round | None]:
        return self._pool.submit(self._take, int(self.state["position"]), n)

    def _take(self, position: int, n: int) -> Round | None:
        """Runs in the thread, which alone uses the mixture; None when this one of several processes has an unusable
        sample."""
        samples, places = self._mixture.draw(position, n), self._ranks.mine(range(n))
        entries: list[Prompt | Sample] = [*samples]
        early = [self._workers.submit(self.prepare, sample) for sample in self._ranks.mine(samples)]
        for place, future in zip(places, early, strict=True):
            try:
                entries[place] = future.result()
            except ValueError:
                for later in early:
                    later.cancel()
                return self._one_by_one(position, n, entries[:place]) if self._ranks.size == 1 else None
        return self._round(position + n, entries)

    def _one_by_one(self, position: int, n: int, done: Sequence[Prompt | Sample] = ()) -> Round:
        """All prompts of a round after those that are done: a skipped row may move those of later places."""
        rest = range(position + len(done), position + n)
        return self._round(position + n, [*done, *map(self._usable, rest)])

    def _round(self, end: int, entries: Sequence[Prompt | Sample]) -> Round:
        return tuple(entries), {"position": end, "skipped": self._mixture.skipped(end)}

    def _usable(self, position: int) -> Prompt:
        while True:
            (sample,) = self._mixture.draw(position, 1)
            try:
                return self.prepare(sample)
            except ValueError as error:
                if not self._mixture.skips(position):
                    raise
                log.warning("%s; skipped, another row takes its place (on_bad: skip)", error)
                self._mixture.skip(position)
