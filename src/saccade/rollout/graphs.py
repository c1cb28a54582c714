"""A decoding step as a CUDA graph: recorded once for each shape, then replayed by one launch.

A step of a 3B model launches some 1,500 kernels, and in plain PyTorch the host needs longer to launch them than a GPU
to run them. A replay runs what was recorded, at the addresses of then, so it is only for `fixed_slots`. Every recording
is compared with the step itself, on its own inputs and on the next, before it is believed; one that fails or differs
ends recording for the engine, which then goes on without, and says so once. One that is right on its own inputs alone
is an error: it may have written anywhere.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from saccade.models.fused import distance
from saccade.rollout.fixed_slots import Shape

log = logging.getLogger(__name__)

WARMUP_STEPS = 4
"""Steps of a shape that run as they are; recording costs about three, and many a shape does not last."""
LIMITS = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest distance of a replay from the step itself / largest value. Kernels may be chosen anew for a recording; a
fault is a difference of order 1."""


class Recording(Protocol):
    """A step that was recorded."""

    def replay(self) -> None:
        """Run it on what is in its inputs now."""
        ...


Record = Callable[[Callable[[], Tensor], bool], tuple[Recording, Tensor]]
"""A step, and whether no earlier recording is left -> its recording, and the tensor into which a replay writes."""


@dataclass(eq=False)
class CudaRecorder:
    """Records by CUDA's stream capture. Recordings share one pool of memory: they never run at once, and what one
    leaves there is read before the next one runs."""

    device: torch.device
    pool: Any = None

    def __call__(self, step: Callable[[], Tensor], first: bool) -> tuple[Recording, Tensor]:
        with torch.cuda.device(self.device):  # streams are those of the current device, which need not be the model's
            return self._record(step, first)

    def _record(self, step: Callable[[], Tensor], first: bool) -> tuple[Recording, Tensor]:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries set themselves up on first use, which must not be recorded
            step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        if first:  # a pool whose graphs are all gone must not be used again
            self.pool = torch.cuda.graph_pool_handle()
        # threads that prepare data may allocate meanwhile
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            out = step()
        return graph, out


class Graphs:
    """`Runner` that replays steps: of `steps`, `replayed` were, by `recorded` recordings."""

    def __init__(self, record: Record, required: bool = False) -> None:
        self.record = record
        self.required = required
        """RuntimeError instead of going on without."""
        self.failure: str | None = None
        """Why nothing is recorded any more."""
        self.steps = self.recorded = self.replayed = 0
        self._seen: Counter[Shape] = Counter()
        self._recordings: dict[Shape, tuple[Recording, Tensor]] = {}
        self._unproven: set[Shape] = set()
        """Recorded, and compared on the inputs of the recording alone."""

    def run(self, shape: Shape, step: Callable[[], Tensor]) -> Tensor:
        """See `fixed_slots.Runner`."""
        self.steps += 1
        if shape in self._recordings and shape not in self._unproven:
            recording, out = self._recordings[shape]
            recording.replay()
            self.replayed += 1
            return out
        self._seen[shape] += 1
        found = step()
        if self.failure is None and self._seen[shape] > WARMUP_STEPS and bool(torch.isfinite(found).all()):
            self._try(shape, step, found)
            return found if self.failure is None else step()  # a wrong replay may have written wrong keys and values
        return found

    def reset(self) -> None:
        """See `fixed_slots.Runner`."""
        self._recordings.clear()
        self._unproven.clear()
        self._seen.clear()

    def _try(self, shape: Shape, step: Callable[[], Tensor], expected: Tensor) -> None:
        """Record the step that just ran, or try its recording again; a replay writes again what the step wrote."""
        known = self._recordings.get(shape)
        try:
            recording, out = known or self.record(step, not self._recordings)
            out.fill_(torch.nan)  # so that a replay that does nothing shows
            recording.replay()
            off = distance(out, expected)
        except RuntimeError as error:  # torch's errors of CUDA, too little memory included
            return self._give_up(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        limit = LIMITS.get(expected.dtype, 0.0)
        if known is not None and not off <= limit:
            raise RuntimeError(
                f"a recorded decoding step was {off:.1e} of the largest value away from the step itself on new inputs "
                f"(limit {limit:.0e}) and may have written over earlier tokens; set rollout.engine.cuda_graphs: off"
            )
        if not off <= limit:
            return self._give_up(f"a replay was {off:.1e} of the largest value away from the step (limit {limit:.0e})")
        if known is None:
            self._recordings[shape] = (recording, out)
            self._unproven.add(shape)
            self.recorded += 1
        else:
            self._unproven.remove(shape)
        return None

    def _give_up(self, reason: str) -> None:
        self.reset()
        if self.required:
            raise RuntimeError(f"rollout.cuda_graphs is on, but a decoding step cannot be replayed: {reason}; use auto")
        self.failure = reason
        log.warning(
            "rollout: decoding continues without CUDA graphs (%s); rollout.engine.cuda_graphs: off skips the attempt",
            reason,
        )
