"""What the SFT and the RL loop share outside of their steps: opening a run, evaluation and checkpoints when due."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from saccade.config import Config
from saccade.models.policy import ModelConfig, Policy, load_policy
from saccade.runs.environment import describe
from saccade.runs.records import Run
from saccade.training import checkpoint
from saccade.training.checkpoint import Checkpoint, CheckpointConfig
from saccade.training.optim import GuardedOptimizer, OptimConfig, build_optimizer

log = logging.getLogger(__name__)

Evaluate = Callable[[Policy, int], Mapping[str, float]]
"""(policy, step) -> metrics with the key `score`, higher is better."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What opening a run needs to know of its recipe."""

    recipe: Config
    model: ModelConfig
    optim: OptimConfig
    checkpoint: CheckpointConfig
    eval_every: int
    data_hash: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves behind."""

    directory: Path
    policy: Policy
    step: int
    best_score: float | None
    best_step: int | None


@dataclass(eq=False)
class Session:
    """An open run with its policy and optimiser."""

    run: Run
    policy: Policy
    optimizer: GuardedOptimizer
    opening: Opening
    evaluate: Evaluate | None
    resumed: Checkpoint | None
    best_score: float | None = None
    best_step: int | None = None
    saved_step: int = field(default=0)

    @property
    def state(self) -> dict[str, Any] | None:
        """What the loop itself gave to its last checkpoint; None on a fresh start."""
        return self.resumed.state["loop"] if self.resumed else None

    def baseline(self) -> None:
        """Evaluates the model as it starts, in a row of step 0; a resumed run has that row already."""
        if self.evaluate is not None and self.resumed is None:
            self.run.metrics(0, _evaluation(self.evaluate, self.policy, 0))

    def end_step(self, step: int, row: Mapping[str, float | str | None], state: dict[str, Any], last: bool) -> bool:
        """Evaluates if due, writes the row, saves if due (or better than ever). True when the step was evaluated."""
        due = self.evaluate is not None and (last or step % self.opening.eval_every == 0)
        better = False
        if due and self.evaluate is not None:
            evaluation = _evaluation(self.evaluate, self.policy, step)
            row = {**row, **evaluation}
            score = evaluation["eval/score"]
            better = not math.isnan(score) and (self.best_score is None or score > self.best_score)
            if better:
                self.best_score, self.best_step = score, step
        self.run.metrics(step, row)
        if last or better or step % self.opening.checkpoint.every == 0:
            self._save(step, state, better)
        return due

    def _save(self, step: int, state: dict[str, Any], better: bool) -> None:
        directory = self.run.directory
        facts = {"step": step, "best_score": self.best_score, "best_step": self.best_step}
        path = checkpoint.save(
            directory, self.policy, self.optimizer, facts | {"loop": state, "sizes": self.run.sizes()}
        )
        if better:
            checkpoint.link(checkpoint.folder(directory), "best", path.name)
        checkpoint.prune(directory, self.opening.checkpoint.keep)

    def outcome(self, step: int) -> Outcome:
        return Outcome(self.run.directory, self.policy, step, self.best_score, self.best_step)


def open_session(opening: Opening, run_dir: Path, evaluate: Evaluate | None, resume: bool) -> Session:
    """Loads the model (of the last checkpoint on resume), then opens the run directory: what can be refused is refused
    before anything is written.
    """
    transformers_logging.disable_progress_bar()  # its bars would tear our one live line
    found = None
    if resume:
        Run.reopen(run_dir, opening.recipe)
        found = checkpoint.latest(run_dir)
    else:
        Run.refuse_existing(run_dir)
    model = opening.model.model_copy(update={"path": str(found.path)}) if found else opening.model
    policy = load_policy(model)
    optimizer = GuardedOptimizer(build_optimizer(policy.trainable(), opening.optim), opening.optim)
    checkpoint.check_disk_space(run_dir, policy, opening.checkpoint.keep)
    run = Run.reopen(run_dir, opening.recipe) if resume else Run.create(run_dir, opening.recipe)
    session = Session(run, policy, optimizer, opening, evaluate, found)
    run.cut_back(found.state["sizes"] if found else {})
    if found:
        checkpoint.restore(found, policy, optimizer)
        checkpoint.relink(run_dir, found.step, found.state["best_step"])
        session.best_score, session.best_step = found.state["best_score"], found.state["best_step"]
        log.info("resuming %s after step %d", run_dir, found.step)
    else:
        run.environment(describe(policy, opening.model.path, opening.data_hash))
    return session


@torch.no_grad()
def _evaluation(evaluate: Evaluate, policy: Policy, step: int) -> dict[str, float]:
    """Metrics under `eval/`. The random generators are put back: evaluating more often never changes the training."""
    rng, start = checkpoint.rng_state(), time.perf_counter()
    found = dict(evaluate(policy, step))
    checkpoint.set_rng_state(rng)
    if "score" not in found:
        raise ValueError(f"evaluate returned {', '.join(found) or 'nothing'}; expected a metric named 'score'")
    metrics = {f"eval/{name}": float(value) for name, value in found.items()}
    return metrics | {"time/eval_s": time.perf_counter() - start}


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
    import resource  # not on Windows, where only a GPU run would come this far without it

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
