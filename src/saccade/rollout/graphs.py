"""Decoding steps as CUDA graphs: recorded once for each shape, then replayed with one launch.

A step of a 3B model launches some 1,500 kernels, and in plain PyTorch the host takes longer to launch them than a GPU
to run them. A replay repeats the recorded kernels at the recorded addresses, so it works only for `fixed_slots`. Every
recording is compared with the step itself, on its own inputs and on the next, before it is used. If it fails or
differs, the engine stops recording, logs this once and continues without graphs. A recording that is right only on its
own inputs is an error: it may have written anywhere.
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
"""Steps of a shape that run without recording, which costs about three steps; many shapes do not last longer."""
LIMITS = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference between replay and step / largest value. A recording may select other kernels; an actual fault
causes differences of order 1."""


class Recording(Protocol):
    """A recorded step."""

    def replay(self) -> None:
        """Run it on the current content of its inputs."""
        ...


Record = Callable[[Callable[[], Tensor], bool], tuple[Recording, Tensor]]
"""(step, whether no other recording exists) -> its recording, and the output tensor of a replay."""


@dataclass(eq=False)
class CudaRecorder:
    """Records with CUDA's stream capture. Recordings share one memory pool: they never run concurrently, and the output
    of one is read before the next one runs."""

    device: torch.device
    pool: Any = None

    def __call__(self, step: Callable[[], Tensor], first: bool) -> tuple[Recording, Tensor]:
        with torch.cuda.device(self.device):  # streams belong to the current device, which may not be the model's
            return self._record(step, first)

    def _record(self, step: Callable[[], Tensor], first: bool) -> tuple[Recording, Tensor]:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries initialize on first use, which must not be recorded
            step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        if first:  # a pool whose graphs were all deleted must not be reused
            self.pool = torch.cuda.graph_pool_handle()
        # threads that prepare data may allocate meanwhile
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            out = step()
        return graph, out


class Graphs:
    """`Runner` that replays steps; `steps`, `recorded` and `replayed` are counters."""

    def __init__(self, record: Record, required: bool = False) -> None:
        self.record = record
        self.required = required
        """RuntimeError instead of continuing without graphs."""
        self.failure: str | None = None
        """Why recording was stopped, or None."""
        self.steps = self.recorded = self.replayed = 0
        self._seen: Counter[Shape] = Counter()
        self._recordings: dict[Shape, tuple[Recording, Tensor]] = {}
        self._unproven: set[Shape] = set()
        """Recordings compared only on their own inputs so far."""

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
            self._record_or_verify(shape, step, found)
            return found if self.failure is None else step()  # a wrong replay may have written wrong keys and values
        return found

    def reset(self) -> None:
        """See `fixed_slots.Runner`."""
        self._recordings.clear()
        self._unproven.clear()
        self._seen.clear()

    def _record_or_verify(self, shape: Shape, step: Callable[[], Tensor], expected: Tensor) -> None:
        """Record the step that just ran, or verify its recording; a replay writes the same values as the step."""
        known = self._recordings.get(shape)
        try:
            recording, out = known or self.record(step, not self._recordings)
            out.fill_(torch.nan)  # reveals a replay that does nothing
            recording.replay()
            off = distance(out, expected)
        except RuntimeError as error:  # CUDA errors, including too little memory
            return self._give_up(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        limit = LIMITS.get(expected.dtype, 0.0)
        if known is not None and not off <= limit:
            raise RuntimeError(
                f"a recorded decoding step differed from the step itself by {off:.1e} of the largest value on new "
                f"inputs (limit {limit:.0e}) and may have overwritten earlier tokens; set "
                "rollout.engine.cuda_graphs: off"
            )
        if not off <= limit:
            return self._give_up(f"a replay differed by {off:.1e} of the largest value (limit {limit:.0e})")
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
