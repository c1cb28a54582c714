"""A double of an engine with weights of its own, as a server has: it samples with what the last sync brought, whatever
the trainer does meanwhile."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence

import torch

from saccade.models.policy import Policy
from saccade.rollout.builtin import BuiltinEngine
from saccade.rollout.config import Sampling
from saccade.rollout.prompts import Prompt
from saccade.types import Completion


class CopyEngine:
    """Notes what happens to it, and allows neither two calls at once nor new weights during one."""

    def __init__(self, policy: Policy) -> None:
        self.own = Policy(copy.deepcopy(policy.model), policy.adapter, policy.processors, policy.version)
        self.inner = BuiltinEngine(self.own)
        self.threads: list[str] = []
        self.busy = threading.Lock()
        self.events: list[str] = []

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, n: int, seeds: Sequence[int]
    ) -> list[list[Completion]]:
        assert self.busy.acquire(blocking=False), "two calls at once"
        try:
            self.threads.append(threading.current_thread().name)
            self.events.append(f"generate with {self.own.version}")
            bare = [Prompt(one.sample, one.encoded, one.images) for one in prompts]
            return self.inner.generate(bare, sampling, n, seeds)
        finally:
            self.busy.release()

    def sync(self, policy: Policy) -> None:
        assert not self.busy.locked(), "new weights in the middle of a rollout"
        with torch.no_grad(), policy.whole():
            for mine, theirs in zip(self.own.model.parameters(), policy.model.parameters(), strict=True):
                mine.copy_(theirs)
        self.own.version = policy.version
        self.events.append(f"sync {policy.version}")
        self.inner.sync(self.own)

    def close(self) -> None:
        self.inner.close()
