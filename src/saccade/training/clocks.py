"""Time and memory of a run's steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from saccade.workers import channel


class StepClock:
    """The wall clock of this process: a step begins only if one as long as the longest so far would end in time."""

    def __init__(self) -> None:
        self.started = self.last = time.monotonic()
        self.longest_s = 0.0

    def is_over(self, max_hours: float | None) -> bool:
        """Called once at the end of each step: whether another one might end after `max_hours`."""
        now = time.monotonic()
        self.longest_s, self.last = max(self.longest_s, now - self.last), now
        return max_hours is not None and now - self.started + self.longest_s > max_hours * 3600


class Stopwatch:
    """Seconds by phase of one step."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.phases: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - start

    def metrics(self) -> dict[str, float]:
        """`time/<phase>_s` and `time/step_s`."""
        times = {f"time/{name}_s": seconds for name, seconds in self.phases.items()}
        return times | {"time/step_s": time.perf_counter() - self.started}


def peak_memory_mb(device: torch.device) -> float:
    """Most memory used so far: of the GPU's allocator, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return channel.peak_memory_mb()
