"""Trackers that a run may feed besides its files. Each works in its own thread: one that is slow loses rows, one that
fails is dropped with a warning, and neither delays or stops the run.

A tracker is one class of `saccade.runs.trackers` with the three methods of `Sink`, and its name in `SinkConfig.kind`.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image

from saccade.config import Config

log = logging.getLogger(__name__)
WAITING, LEAVE_S = 1000, 10.0
"""Calls that wait for a slow tracker before rows are dropped; seconds that the end of a run waits for it."""


class SinkConfig(Config):
    """A tracker of a recipe; each needs its package: pip install 'saccade[wandb]'."""

    kind: Literal["tensorboard", "wandb", "trackio", "mlflow"]
    project: str = "saccade"
    """Project of W&B and trackio, experiment of MLflow; TensorBoard writes to RUN/tensorboard and has none. Addresses
    and keys are the trackers' own settings, such as WANDB_API_KEY and MLFLOW_TRACKING_URI."""
    images: bool = True
    """Also the kept images with the true boxes and those of a reply."""


class Sink(Protocol):
    """Any method may raise: the tracker is dropped then."""

    def metrics(self, step: int, row: Mapping[str, float]) -> None: ...

    def image(self, step: int, image: Image.Image, caption: str) -> None: ...

    def close(self) -> None: ...


Open = Callable[[Path, SinkConfig, int], Sink]
"""(run directory, config, last step of a run that resumes or 0) -> the tracker, in its own thread."""


class SinkThread:
    """Feeds one tracker."""

    def __init__(self, directory: Path, config: SinkConfig, step: int, opened: Open) -> None:
        self.config, self.failed, self.dropped = config, False, 0
        self._calls: queue.Queue[Callable[[Sink], Any] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(
            target=self._work, args=(directory, step, opened), name=f"sink {config.kind}", daemon=True
        )
        self._thread.start()

    def _work(self, directory: Path, step: int, opened: Open) -> None:
        try:
            sink = opened(directory, self.config, step)
            while (call := self._calls.get()) is not None:
                call(sink)
            sink.close()
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises is said and must not stop the run
            self.failed = True
            log.warning("sink %s is dropped, the run continues: %s: %s", self.config.kind, type(error).__name__, error)

    def send(self, call: Callable[[Sink], Any]) -> None:
        if self.failed:
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        with suppress(queue.Full):
            self._calls.put(None, timeout=0.0 if self.failed else LEAVE_S)
        self._thread.join(LEAVE_S)
        late = self._thread.is_alive() and not self.failed
        if late or self.dropped:
            log.warning("sink %s is too slow: %d rows were dropped%s; the run's files are whole",
                        self.config.kind, self.dropped, ", the last ones may be missing" if late else "")  # fmt: skip


class Sinks:
    """All trackers of a run."""

    def __init__(self, threads: Sequence[SinkThread] = ()) -> None:
        self.threads = threads

    def metrics(self, step: int, row: Mapping[str, Any]) -> None:
        numbers = {k: float(v) for k, v in row.items() if isinstance(v, (int, float)) and math.isfinite(v)}
        for thread in self.threads:
            thread.send(lambda sink: sink.metrics(step, numbers))

    def images(self, step: int, shown: Callable[[], Iterable[tuple[Image.Image, str]]]) -> None:
        """`shown` makes (image, caption) pairs in the tracker's thread."""
        for thread in self.threads:
            if thread.config.images:
                thread.send(lambda sink: [sink.image(step, image, caption) for image, caption in shown()])


@contextmanager
def open_sinks(configs: Sequence[SinkConfig], directory: Path, step: int = 0) -> Iterator[Sinks]:
    """The trackers of a run that begins, or resumes after `step`. ValueError for one whose package is missing."""
    from saccade.runs.trackers import opener

    openers = [opener(config.kind) for config in configs]
    threads = [SinkThread(directory, config, step, found) for config, found in zip(configs, openers, strict=True)]
    try:
        yield Sinks(threads)
    finally:
        for thread in threads:
            thread.close()
