"""What the SFT and RL loops share outside their steps: opening a run, evaluation and checkpoints when due."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from saccade.config import dump
from saccade.models.config import ShardConfig
from saccade.models.lora import fingerprint
from saccade.models.policy import Policy, base_path, load_policy, resolve_path
from saccade.rollout.config import DEFAULT_ENGINE
from saccade.rollout.engine import Engine, open_engine
from saccade.runs.environment import describe, versions
from saccade.runs.records import Run
from saccade.training import checkpoint
from saccade.training.checkpoint import Checkpoint
from saccade.training.config import RLRecipe, SFTRecipe
from saccade.training.optim import GuardedOptimizer, build_optimizer
from saccade.training.ranks import ONE, Ranks
from saccade.training.sharded_checkpoint import ShardWriter
from saccade.training.trained_table import trained_table

log = logging.getLogger(__name__)

Evaluate = Callable[[Policy, Engine, int], Mapping[str, float]]
"""(policy, the run's engine with its weights, step) -> metrics with the key `score`, higher is better."""

Recipe = RLRecipe | SFTRecipe


@dataclass(frozen=True)
class RunResult:
    """The result of a finished run."""

    directory: Path
    policy: Policy
    step: int
    best_score: float | None
    best_step: int | None
    """0: no checkpoint was better than the starting model."""


@dataclass(eq=False)
class Session:
    """An open run with its policy and optimizer."""

    run: Run
    policy: Policy
    optimizer: GuardedOptimizer
    engine: Engine
    recipe: Recipe
    evaluate: Evaluate | None
    resumed: Checkpoint | None
    best_score: float | None = None
    best_step: int | None = None
    ranks: Ranks = ONE
    writer: ShardWriter | None = None
    """Writes the checkpoints of several processes."""

    @property
    def shard(self) -> ShardConfig | None:
        """How models are loaded; None with one process."""
        return self.recipe.shard if self.ranks.size > 1 else None

    @property
    def state(self) -> dict[str, Any] | None:
        """What the loop saved in its last checkpoint; None on a fresh start."""
        return self.resumed.state["loop"] if self.resumed else None

    def baseline(self) -> None:
        """Evaluates the model as it starts, in a row of step 0, and as the first candidate for the best; a resumed run
        has that row already."""
        if self.evaluate is not None and self.resumed is None:
            evaluation = self._evaluation(self.evaluate, 0)
            self.run.metrics(0, evaluation)
            self._is_best(0, evaluation)

    def end_step(self, step: int, row: Mapping[str, float | str | None], state: dict[str, Any], last: bool) -> bool:
        """Evaluates if due, writes the row, saves if due (or the best so far). True when the step was evaluated."""
        due = self.evaluate is not None and (last or step % self.recipe.eval.every == 0)
        better = False
        if due and self.evaluate is not None:
            evaluation = self._evaluation(self.evaluate, step)
            row = {**row, **evaluation}
            better = self._is_best(step, evaluation)
        self.run.metrics(step, row)
        if self.writer is not None:
            self.writer.poll()
        if last or better or step % self.recipe.checkpoint.every == 0:
            self._save(step, state, better)
        return due

    def _is_best(self, step: int, evaluation: Mapping[str, float]) -> bool:
        """Whether the score is the highest so far, which it then becomes."""
        score = evaluation["eval/score"]
        better = not math.isnan(score) and (self.best_score is None or score > self.best_score)
        if better:
            self.best_score, self.best_step = score, step
        return better

    def _save(self, step: int, state: dict[str, Any], better: bool) -> None:
        directory = self.run.directory
        facts = {"step": step, "best_score": self.best_score, "best_step": self.best_step}
        facts |= {"loop": state, "sizes": self.run.sizes()}

        def then(path: Path) -> None:
            if better:
                checkpoint.link(checkpoint.folder(directory), "best", path.name)
            checkpoint.prune(directory, self.recipe.checkpoint.keep)

        if self.writer is None:
            then(checkpoint.save(directory, self.policy, self.optimizer, facts))
        else:
            self.writer.start(directory, self.policy, self.optimizer, facts, then)

    @torch.no_grad()
    def _evaluation(self, evaluate: Evaluate, step: int) -> dict[str, float]:
        """Metrics under `eval/`. The random generators are restored: evaluating more often never changes training."""
        rng, start = checkpoint.rng_state(), time.perf_counter()
        self.engine.sync(self.policy)
        with self.policy.whole():
            found = self.ranks.broadcast(dict(evaluate(self.policy, self.engine, step)))
        checkpoint.set_rng_state(rng)
        if "score" not in found:
            raise ValueError(f"evaluate returned {', '.join(found) or 'nothing'}; expected a metric named 'score'")
        metrics = {f"eval/{name}": float(value) for name, value in found.items()}
        return metrics | {"time/eval_s": time.perf_counter() - start}

    def result(self, step: int) -> RunResult:
        return RunResult(self.run.directory, self.policy, step, self.best_score, self.best_step)


@contextmanager
def open_session(
    recipe: Recipe,
    run_dir: Path,
    data_hash: Mapping[str, str],
    evaluate: Evaluate | None,
    resume: bool,
    engine: Engine | None = None,
    ranks: Ranks = ONE,
) -> Iterator[Session]:
    """Loads the model (of the last checkpoint on resume) and opens its engine, then the run directory: everything is
    validated before anything is written. `engine` replaces the recipe's own, and stays open.
    """
    transformers_logging.disable_progress_bar()  # its bars would break our one live line
    check_shard(recipe, ranks)
    weights = fingerprint(base_path(resolve_path(recipe.model.path))) if ranks.size > 1 else None
    facts = {"recipe": dump(recipe), "data": dict(data_hash), "weights": weights, "package versions": versions()}
    ranks.agree(facts)
    found = None
    if resume:
        Run.reopen(run_dir, recipe)
        found = ranks.on_first(lambda: checkpoint.latest(run_dir))
    else:
        ranks.on_first(lambda: Run.refuse_existing(run_dir))
    shard = recipe.shard if ranks.size > 1 else None
    if found and recipe.model.lora is None:
        policy = load_policy(recipe.model.model_copy(update={"path": str(found.path)}), shard=shard)
    else:
        policy = load_policy(recipe.model, recipe.seed, adapters=found.path if found else None, shard=shard)
    part_of = {name: part for part, named in policy.parameters_by_part().items() for name, _ in named}
    optimizer = GuardedOptimizer(build_optimizer(policy.trainable(), recipe.optim, part_of), recipe.optim)
    log.info("%s", trained_table(policy, recipe.optim))
    ranks.on_first(lambda: checkpoint.check_disk_space(run_dir, policy, recipe.checkpoint.keep))
    config = recipe.rollout.engine if isinstance(recipe, RLRecipe) else DEFAULT_ENGINE
    with ExitStack() as stack:
        if engine is None:
            engine = open_engine(policy, config)
            stack.callback(engine.close)
        run = ranks.on_first(lambda: Run.reopen(run_dir, recipe) if resume else Run.create(run_dir, recipe))
        run = replace(run, writes=ranks.is_first)
        stack.enter_context(log_file(run_dir, ranks))
        session = Session(run, policy, optimizer, engine, recipe, evaluate, found, ranks=ranks)
        session.writer = ShardWriter(ranks) if ranks.size > 1 else None
        ranks.on_first(lambda: run.cut_back(found.state["sizes"] if found else {}))
        if found:
            checkpoint.restore(found, policy, optimizer)
            ranks.on_first(lambda: checkpoint.relink(run_dir, found.step, found.state["best_step"]))
            session.best_score, session.best_step = found.state["best_score"], found.state["best_step"]
            log.info("resuming %s after step %d", run_dir, found.step)
        elif run.writes:
            run.environment(describe(policy, recipe.model.path, data_hash) | {"processes": ranks.size})
        yield session
        if session.writer is not None:
            session.writer.finish()


def check_shard(recipe: Recipe, ranks: Ranks) -> None:
    """ValueError for options of sharding without several processes to share the model."""
    if ranks.size == 1 and recipe.shard != ShardConfig():
        raise ValueError(
            "shard: got options for several processes, but there is one; start several with "
            "'torchrun --nproc-per-node N -m saccade ...' or 'saccade launch', or remove shard"
        )


@contextmanager
def log_file(run_dir: Path, ranks: Ranks) -> Iterator[None]:
    """The log lines of each of several processes in `RUN/logs/process-N.log`; those of the first also where they go
    anyway."""
    if ranks.size == 1:
        yield
        return
    path = run_dir / "logs" / f"process-{ranks.rank}.log"
    path.parent.mkdir(exist_ok=True)
    handler, logger = logging.FileHandler(path, encoding="utf-8"), logging.getLogger("saccade")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


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
