"""The processes of a run. Everything that they must agree on goes through `Ranks`; with one process there is nothing to
exchange.

torchrun starts the processes and names them in the environment; nothing in a recipe switches this on.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import get_node_local_rank
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""The longest that a process waits for the others, say for the slowest rollout; then it ends with an error."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of the run. Every process must make the same calls in the same order. With one process
    every call returns what it was given."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """True in the process that writes records and messages."""
        return self.rank == 0

    def sum(self, value: float) -> float:
        """The sum over all processes: token counts, losses."""
        return sum(self.gather(value)) if self.size > 1 else value

    def max(self, value: int) -> int:
        """The largest of all processes: how many passes each must make."""
        return max(self.gather(value))

    def broadcast(self, value: T) -> T:
        """What the first process has: decisions that must not differ."""
        return self.gather(value if self.is_first else None)[0] if self.size > 1 else value  # type: ignore[return-value]  # the first one is a T

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks; anything that can be pickled."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def mine(self, items: Sequence[T]) -> list[T]:
        """This process's share of `items`: every size-th, from its rank on."""
        return list(items[self.rank :: self.size])

    def merge(self, shares: Sequence[Sequence[T]]) -> list[T]:
        """The items in order again, from the shares of all processes (see `mine`)."""
        total = sum(map(len, shares))
        return [shares[place % self.size][place // self.size] for place in range(total)]

    def on_first(self, fn: Callable[[], T]) -> T:
        """What `fn` returns in the first process, which alone runs it: checks and changes of shared files. An error is
        raised there; the other processes end without a message."""
        if self.size == 1:
            return fn()
        if self.is_first:
            try:
                found = fn()
            except BaseException:
                self.gather(None)
                raise
            self.gather([found])
            return found
        outcome: Any = self.gather(None)[0]  # what the first process sent
        if outcome is None:
            self._end_after_first()
        return outcome[0]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """ValueError when the facts differ between processes; those after the first end without a message."""
        everyone = self.gather(dict(facts))
        for key, expected in everyone[0].items():
            for rank, theirs in enumerate(everyone):
                if theirs.get(key) != expected:
                    if not self.is_first:
                        self._end_after_first()
                    raise ValueError(
                        f"process {rank} of {self.size} has another {key} than process 0: got {theirs.get(key)!r}, "
                        f"expected {expected!r}. All processes of a run need the same recipe, data, weights and "
                        "package versions: compare the machines they run on"
                    )

    def _end_after_first(self) -> NoReturn:
        """Waits until the first process has given its reason and ended; whoever started them then ends all."""
        with suppress(RuntimeError):  # its end breaks the connection
            self.gather(None)
        raise SystemExit(2)

    def check_share(self, groups: int, what: str) -> None:
        """ValueError when there are fewer groups in a step than processes, since some would have nothing to do."""
        if groups < self.size:
            raise ValueError(
                f"{what} is {groups}, but there are {self.size} processes and a group stays on one of them; expected "
                f"at least {self.size}. Raise it, or start fewer processes"
            )


ONE = Ranks()


def join() -> Ranks:
    """Joins the other processes that torchrun started, until this one ends; `ONE` without any. Each process takes the
    GPU of its local rank."""
    if not dist.is_initialized():
        if not dist.is_torchelastic_launched():
            return ONE
        backend = "gloo"
        if torch.cuda.is_available():
            local, visible = get_node_local_rank(), torch.cuda.device_count()
            if local >= visible:
                raise ValueError(
                    f"process {local} of this node has no GPU of its own: {visible} are visible; start at most that "
                    "many processes on each node"
                )
            torch.cuda.set_device(local)
            backend = "cpu:gloo,cuda:nccl"
        store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
        # torchrun keeps its store when it starts the processes again, and with it the addresses of those that ended
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt {attempt}", store)  # type: ignore[attr-defined]  # public, but not in __all__
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        atexit.register(dist.destroy_process_group)
    return Ranks(dist.get_rank(), dist.get_world_size())
