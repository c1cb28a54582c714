"""CPU seconds and peak memory of alternated arms in one process.

CPU seconds are those of the whole process (`time.process_time`), so what other programs do on the machine moves them
little, and comparing arms by turns takes out what is left. Peak memory is the highest resident set during a run above
the resident set just before it; by then model, optimizer and its state exist, and free memory was given back.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

PROC = Path("/proc/self")
MB = 1024.0 * 1024.0


@dataclass(frozen=True, slots=True)
class Reading:
    """One run of one arm."""

    cpu_seconds: float
    peak_mb: float
    """MiB above the level before the run."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The medians over an arm's runs."""

    cpu_seconds: float
    peak_mb: float
    runs: tuple[Reading, ...]


def median(readings: list[Reading]) -> Cost:
    """ValueError without a run."""
    if not readings:
        raise ValueError("got no runs; expected at least one to take the median of")
    return Cost(
        statistics.median(r.cpu_seconds for r in readings),
        statistics.median(r.peak_mb for r in readings),
        tuple(readings),
    )


def one_thread() -> None:
    """torch's own setting, beside OMP_NUM_THREADS that the package sets. ValueError if torch still has more."""
    torch.set_num_threads(1)
    if torch.get_num_threads() != 1:
        raise ValueError(f"torch runs {torch.get_num_threads()} threads; expected 1")


def give_back_memory() -> None:
    """Collect garbage and return freed heap pages to the system, so that one arm's leavings are not another's level."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)


def _status(key: str) -> float:
    """A size of /proc/self/status in MiB."""
    for line in (PROC / "status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024.0
    raise ValueError(f"{PROC / 'status'} has no {key}; memory is measured on Linux only")


def resident_mb() -> float:
    """MiB of this process's resident set."""
    return _status("VmRSS")


class _KernelPeak:
    """The kernel's own high-water mark, set back before each run: exact, and free."""

    method = "VmHWM of /proc/self/status, set back by /proc/self/clear_refs before each run"

    def start(self) -> None:
        (PROC / "clear_refs").write_text("5")

    def stop(self) -> float:
        return _status("VmHWM")


@dataclass(eq=False)
class _SampledPeak:
    """For kernels that refuse to set the mark back: a thread reads the resident set every few milliseconds."""

    every_s: float = 0.005
    method: str = "resident set of /proc/self/statm, read every 5 ms by a thread"
    _peak: float = 0.0
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._peak, self._done = _status("VmRSS"), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        page = 4096 / MB
        while not self._done.wait(self.every_s):
            self._peak = max(self._peak, int((PROC / "statm").read_text().split()[1]) * page)

    def stop(self) -> float:
        assert self._thread is not None
        self._done.set()
        self._thread.join()
        return max(self._peak, _status("VmRSS"))


def peak_gauge() -> _KernelPeak | _SampledPeak:
    """The kernel's mark where it can be set back, else a sampling thread; its `method` goes into every report."""
    try:
        (PROC / "clear_refs").write_text("5")
    except OSError:
        return _SampledPeak()
    return _KernelPeak()


@dataclass(eq=False)
class Meter:
    """A stop-watch for CPU and memory: `start`, the work, `stop`."""

    gauge: _KernelPeak | _SampledPeak = field(default_factory=peak_gauge)
    _level: float = 0.0
    _clock: float = 0.0

    def start(self) -> None:
        give_back_memory()
        self.gauge.start()
        self._level = _status("VmRSS")
        self._clock = time.process_time()

    def stop(self) -> Reading:
        seconds = time.process_time() - self._clock
        return Reading(seconds, max(0.0, self.gauge.stop() - self._level))

    def run(self, work: Callable[[], object]) -> Reading:
        self.start()
        work()
        return self.stop()


def alternate(arms: Mapping[str, Callable[[], object]], repeats: int, warm: bool = True) -> dict[str, Cost]:
    """Runs the arms by turns, `repeats` times each, after one unmeasured run of each; medians by name."""
    meter = Meter()
    if warm:
        for work in arms.values():
            work()
    readings: dict[str, list[Reading]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, work in arms.items():
            readings[name].append(meter.run(work))
    return {name: median(one) for name, one in readings.items()}
