"""What the SFT and RL loops share outside their steps: opening a run, evaluation and checkpoints when due."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from saccade.disk import writing
from saccade.models.config import ShardConfig
from saccade.models.policy import Policy, resolve_device
from saccade.rollout.config import DEFAULT_ENGINE
from saccade.rollout.engine import Engine, open_engine
from saccade.runs.alarms import AlarmConfig, AlarmWatch, open_alarms
from saccade.runs.environment import describe
from saccade.runs.lock import keep_lock, locked, refuse_in_use
from saccade.runs.records import CONFIG, Run
from saccade.runs.sinks import open_sinks
from saccade.runs.stopping import RunStopped, StepAbandoned, Stop
from saccade.training import changes, checkpoint, generators
from saccade.training.checkpoint import Checkpoint
from saccade.training.clocks import StepClock
from saccade.training.config import RLRecipe, SFTRecipe
from saccade.training.divergence import go_back, load_checkpoint, refuse_diverged
from saccade.training.opening import check_agreement, log_file
from saccade.training.optim import GuardedOptimizer, TrainingStopped, build_optimizer, check_optimizer
from saccade.training.ranks import ONE, Ranks, join
from saccade.training.resuming import START, Resume, find, prepare
from saccade.training.sharded_checkpoint import ShardWriter
from saccade.training.trained_table import trained_table

log = logging.getLogger(__name__)

Evaluate = Callable[[Policy, Engine, int], Mapping[str, float]]
"""(policy, the run's engine with its weights, step) -> metrics with the key `score`, higher is better."""

Recipe = RLRecipe | SFTRecipe
Extras = Callable[[], dict[str, Any]]
"""Gives plain data when a checkpoint is written; every process calls it."""


@dataclass(frozen=True)
class RunResult:
    """The result of a finished run."""

    directory: Path
    policy: Policy
    step: int
    best_score: float | None
    best_step: int | None
    """0: no checkpoint was better than the starting model."""
    stopped: str | None = None
    """Why the run ended before its last step, and how to continue; None for a finished run."""


@dataclass(frozen=True, eq=False, slots=True)
class Mark:
    """The run after its last whole step, whose weights it still has, for the checkpoint of an abandoned next one."""

    step: int
    loop: dict[str, Any]
    rng: dict[str, Any]
    sizes: dict[str, int]
    nonfinite_in_row: int
    extras: Extras
    """What the checkpoint keeps besides, as it was then."""
    pending: dict[str, Any] | None = None
    """The step's row, whose evaluation is still to come."""


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
    facts: dict[str, Any]
    """What a later resume compares, see `changes`."""
    stop: Stop
    best_score: float | None = None
    best_step: int | None = None
    ranks: Ranks = ONE
    writer: ShardWriter | None = None
    """Writes the checkpoints of several processes."""
    ended: str | None = None
    """Why the run ends, once it does."""
    mark: Mark | None = None
    saved: int | None = None
    """Step of the newest checkpoint."""
    before_evaluation: Callable[[], None] | None = None
    """Waits until the engine is free."""
    reference: Policy | None = None
    """Saved with the checkpoints, once it is no longer the initial model."""
    clock: StepClock = field(default_factory=StepClock)
    alarms: AlarmWatch = field(default_factory=lambda: AlarmWatch(AlarmConfig()))

    @property
    def shard(self) -> ShardConfig | None:
        """How models are loaded; None with one process."""
        return self.recipe.shard if self.ranks.size > 1 else None

    @property
    def state(self) -> dict[str, Any] | None:
        """What the loop saved in its last checkpoint; None on a fresh start."""
        return self.resumed.state["loop"] if self.resumed else None

    def baseline(self, state: dict[str, Any], extras: Extras) -> None:
        """Evaluates the model as it starts, in a row of step 0, and as the first candidate for the best. A resumed run
        has that row already; it makes up for an evaluation that was stopped, and may save its checkpoint again. So
        `state`, `extras` and everything else that a checkpoint holds must have been restored."""
        if self.resumed is not None and (pending := self.resumed.state["pending"]):
            self.end_step(self.resumed.step, pending["row"], state, pending["last"], extras)
        elif self.evaluate is not None and self.resumed is None:
            evaluation = self._evaluation(self.evaluate, 0)
            self.run.metrics(0, evaluation)
            self._is_best(0, evaluation)

    def end_step(
        self,
        step: int,
        row: Mapping[str, float | str | None],
        state: dict[str, Any],
        last: bool,
        extras: Extras,
    ) -> bool:
        """Evaluates if due, writes the row, saves if due (or the best so far, or stopping). True when the step was
        evaluated. RunStopped after a signal."""
        self.ranks.on_first(lambda: keep_lock(self.run.directory))
        due = self.evaluate is not None and (last or step % self.recipe.eval.every == 0)
        better = False
        if due and self.evaluate is not None:
            self.mark = self._mark(step, state, extras, {"row": dict(row), "last": last})
            self._agree_to_stop()
            if self.ranks.size == 1:
                self.stop.release()  # an evaluation may be long: it is left for the next start
            if self.stop.signal is not None:
                raise StepAbandoned
            evaluation = self._evaluation(self.evaluate, step)
            row = {**row, **evaluation}
            better = self._is_best(step, evaluation)
        self.stop.hold()
        self.run.metrics(step, row)
        if self.writer is not None:
            self.writer.poll()
        self.mark = self._mark(step, state, extras)
        if (why := self.alarms.report(self.run, {"step": step, **row})) and not last:
            self.ended = f"stopped after step {step} ({why}); {self._continue()}"
        if not last and self.ranks.max(int(self.clock.is_over(self.recipe.max_hours))):
            self.ended = f"stopped after step {step} (max_hours {self.recipe.max_hours:g}); {self._continue()}"
        self.ended, gone = self.ranks.broadcast((self.ended, self._missing(step)))
        if self.best_step in gone:
            self.best_score = self.best_step = None
        self._agree_to_stop()
        save = self.saved in gone or step % self.recipe.checkpoint.every == 0
        if last or better or save or self.ended or self.stop.signal:
            self._save(self.mark, better)
        if self.ranks.size == 1:  # a step of several processes is always finished: others would wait for this one
            self.stop.release()
        if self.stop.signal is not None and not last:
            if self.writer is not None:
                self.writer.finish()
            raise self.stopped()
        return due

    def _missing(self, step: int) -> set[int]:
        """Which of the newest and the best checkpoint something else removed. Both are said; without a newest one the
        run saves now, without a best one the next evaluation gives one."""
        known = {one for one in (self.saved, self.best_step) if one and one != step}
        if not self.run.writes or (self.writer is not None and self.writer.is_writing):
            known = set()
        gone = {one for one in known if not checkpoint.is_there(self.run.directory, one)}
        for one in sorted(gone):
            then = "the run saves one now" if one == self.saved else "the next evaluation gives the best"
            self.run.say_lost(f"checkpoint step-{one:06d} was removed by something else", step, then)
        return gone

    def _is_best(self, step: int, evaluation: Mapping[str, float]) -> bool:
        """Whether the score is the highest so far, which it then becomes."""
        score = evaluation["eval/score"]
        better = not math.isnan(score) and (self.best_score is None or score > self.best_score)
        if better:
            self.best_score, self.best_step = score, step
        return better

    def _mark(self, step: int, state: dict[str, Any], extras: Extras, pending: dict[str, Any] | None = None) -> Mark:
        rng, sizes = generators.state(), self.run.sizes()
        return Mark(step, state, rng, sizes, self.optimizer.nonfinite_in_row, extras, pending)

    def keep_last_step(self) -> None:
        """Saves the last whole step, without what the step in progress has written."""
        if (mark := self.mark) is not None and mark.step != self.saved:
            sizes, step = mark.sizes, mark.step
            self.ranks.on_first(lambda: self.run.cut_back(sizes, step))
            mark = replace(mark, sizes=self.run.sizes())
            generators.restore(mark.rng)
            self.optimizer.nonfinite_in_row = mark.nonfinite_in_row
            self._save(mark, better=False)
        if self.writer is not None:
            self.writer.finish()

    def _agree_to_stop(self) -> None:
        """A signal may reach one process first: all of them stop at the same place."""
        self.stop.ask(self.ranks.max(self.stop.signal or 0))

    def stopped(self) -> RunStopped:
        """The end of a run that a signal stopped."""
        done = f"after step {self.saved}" if self.saved is not None else "before step 1 was whole, nothing was saved"
        return RunStopped(self.stop.signal or 0, f"stopped {done}; {self._continue()}")

    def _continue(self) -> str:
        return way_on(self.run.directory, anew=self.saved is None and self.mark is None)

    def _save(self, mark: Mark, better: bool) -> None:
        directory = self.run.directory
        self.run.keep_config(self.recipe)
        self.run.sync()
        facts = {"step": mark.step, "best_score": self.best_score, "best_step": self.best_step, "facts": self.facts}
        facts |= {"loop": mark.loop, "pending": mark.pending, "sizes": mark.sizes}
        self.saved = mark.step

        def then(path: Path) -> None:
            if better:
                checkpoint.link(checkpoint.folder(directory), "best", path.name)
            checkpoint.prune(directory, self.recipe.checkpoint.keep)

        def also(fresh: Path) -> None:
            extras = mark.extras()  # in every process
            if self.ranks.is_first and extras:
                checkpoint.save_extras(fresh, extras)
            if self.reference is not None:
                self.reference.save(fresh / checkpoint.REFERENCE)

        if self.writer is None:
            then(checkpoint.save(directory, self.policy, self.optimizer, facts, also))
        else:
            self.writer.start(directory, self.policy, self.optimizer, facts, then, also)

    @torch.no_grad()
    def _evaluation(self, evaluate: Evaluate, step: int) -> dict[str, float]:
        """Metrics under `eval/`. The random generators are restored: evaluating more often never changes training."""
        rng, start = generators.state(), time.perf_counter()
        if self.before_evaluation is not None:
            self.before_evaluation()
        self.engine.sync(self.policy)
        with self.policy.whole():
            found = self.ranks.broadcast(dict(evaluate(self.policy, self.engine, step)))
        generators.restore(rng)
        if "score" not in found:
            raise ValueError(f"evaluate returned {', '.join(found) or 'nothing'}; expected a metric named 'score'")
        metrics = {f"eval/{name}": float(value) for name, value in found.items()}
        return metrics | {"time/eval_s": time.perf_counter() - start}

    def result(self, step: int) -> RunResult:
        if self.writer is None:
            refuse_diverged(self.policy, step)
        return RunResult(self.run.directory, self.policy, step, self.best_score, self.best_step, self.ended)


def way_on(run_dir: Path, anew: bool = False) -> str:
    """The words that say how to continue a run."""
    again = f" --from {START}" if anew else ""
    return f"continue with: saccade resume {quote(str(run_dir))}{again}"


@contextmanager
def open_session(
    recipe: Recipe,
    run_dir: Path,
    data: Mapping[str, Mapping[str, Any]],
    evaluate: Evaluate | None,
    resume: bool | Resume = False,
    engine: Engine | None = None,
    stop: Stop | None = None,
) -> Iterator[Session]:
    """Loads the model (of a checkpoint on resume) and opens its engine, then the run directory: everything is validated
    before anything is written. `data` has `data_hash` and `images` of environment.json, by source. `engine` replaces
    the recipe's own, and stays open. One job at a time has a run; of its processes the first holds the lock and changes
    files.
    """
    transformers_logging.disable_progress_bar()  # its bars would break our one live line
    ranks = join()
    check_agreement(recipe, data, ranks)
    how = Resume() if resume is True else resume or None
    run, found, config = Run(run_dir), None, recipe.rollout.engine if isinstance(recipe, RLRecipe) else DEFAULT_ENGINE
    with ExitStack() as stack:
        stack.enter_context(writing(run_dir, lambda: whole(run_dir)))
        take = partial(ranks.on_first, lambda: stack.enter_context(locked(run_dir)))
        if how is not None:
            Run.reopen(run_dir, recipe)
            take()
            found = ranks.on_first(lambda: find(run, how))
        else:
            ranks.on_first(lambda: (refuse_in_use(run_dir), Run.refuse_existing(run_dir)))
        check_optimizer(recipe.optim.kind, resolve_device(recipe.model.device))
        shard = recipe.shard if ranks.size > 1 else None
        policy = load_checkpoint(recipe.model, recipe.seed, found.path if found else None, shard)
        describing = partial(describe, policy, recipe.model.path, data["data_hash"], may_be_gone=found is not None)
        environment = {**ranks.on_first(describing), **data, "processes": ranks.size}
        facts = changes.facts(recipe.model_dump(mode="json"), environment)
        if found is not None and how is not None:
            before = changes.completed(found.state["facts"], type(recipe))
            refuse_changed(run_dir, found, changes.compare(before, facts), how.accept_changes)
        part_of = {name: part for part, named in policy.parameters_by_part().items() for name, _ in named}
        optimizer = GuardedOptimizer(build_optimizer(policy.trainable(), recipe.optim, part_of), recipe.optim)
        keep, kind, step = recipe.checkpoint.keep, recipe.optim.kind, found.step if found else None
        ranks.on_first(lambda: checkpoint.check_disk_space(run_dir, policy, keep, kind, step))
        log.info("%s", trained_table(policy, recipe.optim))
        if engine is None:
            engine = open_engine(policy, config)
            stack.callback(engine.close)
        if how is None:
            take()
            ranks.on_first(lambda: Run.create(run_dir, recipe))
        stack.enter_context(log_file(run_dir, ranks))
        sinks = open_sinks(recipe.sinks if ranks.is_first else (), run_dir, found.step if found else 0)
        run = replace(run, writes=ranks.is_first, sinks=stack.enter_context(sinks))
        stop = stop or Stop()
        session = Session(run, policy, optimizer, engine, recipe, evaluate, found, facts, stop, ranks=ranks)
        if ranks.size > 1:
            session.writer = ShardWriter(ranks)
            stop.hold()  # a step is finished: the other processes would wait for this one
        optimizer.before_step = stop.hold
        if how is not None:
            ranks.on_first(lambda: prepare(run, found, how))
        if found is not None:
            checkpoint.restore(found, policy, optimizer)
            session.best_score, session.best_step = found.state["best_score"], found.state["best_step"]
            session.saved = found.step
        else:
            generators.seed(recipe.seed)
            run.environment(environment)
        if isinstance(recipe, RLRecipe):
            session.alarms = open_alarms(run_dir, recipe.alarms, found.step if found else 0)
        try:
            yield session
        except StepAbandoned:
            stop.end()
            session.keep_last_step()
            raise session.stopped() from None
        except (FloatingPointError, TrainingStopped) as error:
            if not ranks.is_first:
                raise
            raise TrainingStopped(f"{error}; {go_back(run_dir, recipe.model)}") from None
        if session.writer is not None:
            session.writer.finish()


def whole(run_dir: Path) -> str:
    """What a full disk left whole, and how to continue."""
    if not (run_dir / CONFIG).is_file():
        return "nothing is there; start again with more space or elsewhere, or resume it where it was moved to"
    kept = checkpoint.steps(run_dir)
    what = f"checkpoint {kept[-1].name} and its rows are whole" if kept else "no checkpoint was saved yet"
    return f"{what}; free some space, then {way_on(run_dir, anew=not kept)}"


def same_rows(session: Session, rows: Sequence[tuple[str, int, int]], resume: bool | Resume) -> bool:
    """Notes for the checkpoints the (name, rows read, rows of these that are skipped) of each source. False when the
    checkpoint that the run resumes from has others and the user accepted it; else ValueError: images that went away or
    came back move the order of all rows, so that some would come twice and others not at all."""
    found = session.resumed
    before = found.state["facts"].get("rows") if found else None
    session.facts["rows"] = [list(one) for one in rows]
    if found is None or before is None or before == session.facts["rows"]:
        return True
    was, now = (", ".join(f"'{n}' {read - left:,}" for n, read, left in one) for one in (before, rows))
    text = f"usable rows of the data were {was}, they are {now} now (images moved?): all change places"
    refused = changes.Changes((text,), ())
    refuse_changed(session.run.directory, found, refused, isinstance(resume, Resume) and resume.accept_changes)
    return False


def refuse_changed(run_dir: Path, found: Checkpoint, changed: changes.Changes, accepted: bool) -> None:
    """Logs what changed since the checkpoint. ValueError when that changes what is trained, unless it is accepted."""
    since = f"since checkpoint {found.path.name}"
    for line in changed.other:
        log.warning("changed %s: %s", since, line)
    if changed.training and not accepted:
        raise ValueError(
            f"{run_dir}: {since} there are changes in what is trained: {'; '.join(changed.training)}; undo them, or "
            f"accept them with: saccade resume {quote(str(run_dir))} --accept-changes"
        )
    for line in changed.training:
        log.warning("changed %s, and accepted: %s", since, line)
