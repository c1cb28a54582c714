"""Reinforcement learning on groups: sample, score, center, update, record.

The loop is `train`; its parts are in lower packages or in the files beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from saccade.data import Mixture, Source, open_sources
from saccade.data.config import WORLD
from saccade.grading import math_pool
from saccade.models.feature_cache import FeatureCache
from saccade.models.policy import load_adapter, load_policy
from saccade.rewards import check_row
from saccade.rollout.collect import Collected, StageRubrics
from saccade.rollout.config import check_staleness
from saccade.rollout.engine import Engine
from saccade.rollout.groups import Group
from saccade.rollout.prompts import PromptLimits, prepare
from saccade.rollout.seeds import derive_seed
from saccade.rollout.stages import ScheduleState, Stage
from saccade.runs.environment import hash_contents, hash_images, numbered
from saccade.runs.lock import keep_lock
from saccade.runs.progress import ProgressFn, progress
from saccade.runs.stopping import Stop
from saccade.tasks import TASKS
from saccade.tasks.answers import MATHEMATICS
from saccade.tasks.conversation import later_replies, turns_before
from saccade.tasks.templates import find_template
from saccade.training import checkpoint
from saccade.training.clocks import Stopwatch, peak_memory_mb
from saccade.training.collecting import Collector, StepGroups
from saccade.training.config import RLRecipe
from saccade.training.group_metrics import glance, group_metrics, truncated_share
from saccade.training.heldout import build_heldout, right
from saccade.training.learner import Learner, open_learner
from saccade.training.loop import Evaluate, RunResult, Session, open_session, same_rows
from saccade.training.nonfinite import dump_batches
from saccade.training.opening import check_shard
from saccade.training.optim import learning_rate
from saccade.training.policy_batch import PolicyBatch
from saccade.training.policy_step import policy_step
from saccade.training.prompt_feed import PromptFeed
from saccade.training.ranks import join
from saccade.training.replay import Replay
from saccade.training.resuming import Resume
from saccade.training.screening import room_in, screen

log = logging.getLogger(__name__)


def train(
    recipe: RLRecipe,
    run_dir: Path,
    evaluate: Evaluate | None = None,
    resume: bool | Resume = False,
    engine: Engine | None = None,
    stop: Stop | None = None,
) -> RunResult:
    """Trains as the recipe says and writes a run directory; returns the trained policy and the best score.

        result = train(load_recipe("shapes.yaml", ["num_steps=20"]), Path("runs/shapes"))
        result.policy.save("shapes-model")

    `evaluate` replaces the recipe's own held-out evaluation; `engine` the built-in one; `stop` ends the run on request.
    Raises before anything is written when the recipe, the data or the model is invalid; TrainingStopped when gradients
    stay non-finite; RunStopped when `stop` was asked.

    Under torchrun the processes share the run: each makes the same call, and the first writes the directory.
    """
    with open_trainer(recipe, run_dir, evaluate, resume, engine, stop) as trainer:
        state, schedule = trainer.start, recipe.schedule
        while not (state.finished or trainer.session.ended):
            stage = schedule.stage(state)
            groups = trainer.collect(state, stage)  # generate, score, advantages
            after = schedule.advance(state, truncated_share(groups.collected.generated))
            trainer.look_ahead(after)  # with staleness 1 the engine begins to sample the next step
            metrics = trainer.update(groups, state, stage)  # one optimizer step, or several
            state = after
            trainer.record(state, stage, groups, metrics)  # files, evaluation and checkpoint when due
            del groups  # their vision features are not kept beside those of the next step
        return trainer.session.result(state.step)


@dataclass(eq=False)
class Trainer:
    """The parts of an RL run, and the operations of its loop."""

    recipe: RLRecipe
    session: Session
    learner: Learner
    feed: PromptFeed
    collector: Collector
    report: ProgressFn
    start: ScheduleState
    """Where the loop begins: at step 0, or after the step of the checkpoint."""
    skipped: int = 0
    """Rows that were skipped before the first step."""
    replay: Replay | None = None
    """Replies of earlier steps, when the recipe has a use for them."""

    @property
    def watch(self) -> Stopwatch:
        """Of the current step."""
        return self.collector.watch

    def collect(self, state: ScheduleState, stage: Stage) -> StepGroups:
        """The groups of the next step, sampled now or during the step before."""
        self._refresh_reference(state)
        return self.collector.collect(state, stage)

    def look_ahead(self, state: ScheduleState) -> None:
        """Begins to sample the step after this one, if the recipe says so."""
        if self.recipe.rollout.staleness and not state.finished:
            self.collector.begin(state, self.recipe.schedule.stage(state))

    def _refresh_reference(self, state: ScheduleState) -> None:
        """Before a step whose predecessors are a multiple of `reference_refresh`, and again when it is resumed."""
        every, reference = self.recipe.loss.reference_refresh, self.learner.reference
        if not every or not state.step or state.step % every or reference is None:
            return
        pairs = zip(reference.model.parameters(), self.session.policy.model.parameters(), strict=True)
        with torch.no_grad():
            for theirs, ours in pairs:
                theirs.copy_(ours)
        self.session.reference = reference

    def _mine(self, groups: StepGroups, updated: Sequence[Group], replayed: Sequence[Group]) -> list[Group]:
        """The groups that this process trains on; those from other processes have no features yet."""
        mine = groups.shares.mine(updated) + self.session.ranks.mine(replayed)
        if self.session.policy.vision_is_frozen():  # otherwise the update encodes them itself
            new = [i for i, group in enumerate(mine) if group.prompt.features is None]
            prompts = self.collector.with_features([mine[i].prompt for i in new]) if new else []
            for i, prompt in zip(new, prompts, strict=True):
                mine[i] = replace(mine[i], prompt=prompt)
        return mine

    def update(self, groups: StepGroups, state: ScheduleState, stage: Stage) -> dict[str, float]:
        """One optimizer step (or `updates_per_rollout` x `mini_batches`) on the groups."""
        collected, version = groups.collected, self.session.policy.version
        with self.watch.phase("update"):
            updated, replayed = list(collected.groups), list[Group]()
            if self.replay is not None:
                updated, replayed = self.replay.fill(updated, derive_seed(self.recipe.seed, state.step, "replay"))
            metrics = policy_step(
                self.learner,
                self._mine(groups, updated, replayed),
                temperature=stage.sampling_from(self.recipe.rollout.sampling).temperature,
                max_length=stage.max_new_tokens,
                lr=learning_rate(self.recipe.optim, state.step + 1, self.recipe.schedule.max_steps),
                order=[group.id for group in (*updated, *replayed)],
            )
            groups.collected = replace(collected, groups=self.learner.parity.marked(collected.groups))
            if self.replay is not None:
                metrics["replay/replies"] = float(sum(len(group.rollouts) for group in replayed))
                self.replay.add([groups.shares.with_images(group) for group in collected.groups], groups.positions)
        versions = [r.completion.weights_version for group in collected.groups for r in group.rollouts]
        metrics["policy/lag"] = version - sum(versions) / len(versions) if versions else 0.0
        self._warn(metrics, collected, state)
        return metrics

    def _warn(self, metrics: Mapping[str, float], collected: Collected, state: ScheduleState) -> None:
        if metrics["update/skipped"]:
            log.warning("step %d: no update: %s", state.step + 1, why_no_update(collected.generated, metrics))
        config, gap = self.learner.config, metrics.get("sampler/gap_mean", 0.0)
        limit = config.sampler_gap_limit or 0.0
        if config.old_logprobs == "sampler" and gap > limit and not metrics["policy/lag"] and self.replay is None:
            log.warning(
                "step %d: the engine's log-probs are %.3g nats a token from the trainer's, more than "
                "update.sampler_gap_limit %g: ratios do not start from 1; set update.old_logprobs: recompute",
                *(state.step + 1, gap, limit),
            )

    def record(self, state: ScheduleState, stage: Stage, made: StepGroups, metrics: Mapping[str, float]) -> None:
        """Files and the live line; `state` is the one after the step, whose number it names."""
        collected = made.collected
        run, groups, watch = self.session.run, list(collected.generated), self.watch
        self.session.ranks.on_first(lambda: keep_lock(run.directory))
        with watch.phase("grade"):
            seen = group_metrics(groups, right) if run.writes else {}
        with watch.phase("records"):
            decode, keep = self.session.policy.adapter.decode, self.recipe.images_per_step
            run.rollouts(state.step, stage.name, groups, self.recipe.keep_tokens, decode, keep)
            if run.writes:
                groups[:keep] = [made.shares.with_images(group) for group in groups[:keep]]
            run.groups(state.step, groups, keep)
        times = watch.metrics()
        tokens = sum(len(r.completion.token_ids) for group in groups for r in group.rollouts)
        row: dict[str, float | str | None] = {
            "stage": stage.name,
            **seen,
            "rollout/rounds": float(collected.rounds),
            "groups/set_aside": float(len(collected.set_aside)),
            "data/position": float(self.feed.state["position"]),
            "data/skipped": float(self.skipped + self.feed.skipped),
            **metrics,
            **times,
            "tokens/count": float(tokens),
            "tokens/per_s": tokens / times["time/step_s"],
            "memory/peak_mb": peak_memory_mb(self.session.policy.device),
        }
        self.session.end_step(state.step, row, self.loop_state(state), state.finished, self.extras())
        shown = glance(seen)
        if self.session.best_score is not None:
            shown["best"] = self.session.best_score
        self.report(state.step, shown)

    def loop_state(self, state: ScheduleState) -> dict[str, Any]:
        """Where the loop is after a step, as a checkpoint's `state.json` has it."""
        return {"schedule": state.to_dict(), "feed": dict(self.feed.state)}

    def extras(self) -> Callable[[], dict[str, Any]]:
        """What a checkpoint keeps beside weights and counters, as it is now."""
        ahead = self.collector.stored()
        kept = None if self.replay is None else Replay(self.replay.config, self.replay.entries)

        def plain() -> dict[str, Any]:
            found = {"ahead": ahead(), "replay": None if kept is None else kept.stored()}
            return {name: value for name, value in found.items() if value is not None}

        return plain

    def restore(self, extras: Mapping[str, Any], accepted: bool) -> None:
        """The extras of the checkpoint that the run resumes from; `accepted`: although the data changed."""
        if "ahead" in extras and not self.start.finished:
            self.collector.restore(extras["ahead"], self.recipe.schedule.stage(self.start), accepted)
        if self.replay is not None and "replay" in extras:
            prompts = self.feed.again([one["position"] for one in extras["replay"]])
            self.replay.restore(extras["replay"], prompts, accepted)


def why_no_update(groups: Sequence[Group], metrics: Mapping[str, float]) -> str:
    """The reason in words. Failed rewards must not be reported as equal ones."""
    if metrics["update/nonfinite"]:
        return "a gradient that is not finite"
    masks = [rollout.score.masked for group in groups for rollout in group.rollouts]
    if masks and None not in masks:
        return f"every rollout is masked, the first by: {masks[0]}"
    return "all groups have equal rewards"


@contextmanager
def open_trainer(
    recipe: RLRecipe,
    run_dir: Path,
    evaluate: Evaluate | None = None,
    resume: bool | Resume = False,
    engine: Engine | None = None,
    stop: Stop | None = None,
) -> Iterator[Trainer]:
    """Everything that a run needs, cheapest checks first, validated before anything is written."""
    ranks = join()
    check_shard(recipe, ranks)
    if recipe.template is not None:
        find_template(recipe.template)  # a mistake of the recipe, not of its first row
    if engine is None:
        check_staleness(recipe.rollout)
    for stage in recipe.stages:
        ranks.check_share(recipe.prompts_in(stage), f"prompts_per_step of stage '{stage.name}'")
    sources = open_sources(recipe.data)
    rubrics = StageRubrics(TASKS, recipe.rubrics)
    if MATHEMATICS in check_rubrics(recipe, sources, rubrics):
        math_pool.shared().warm_up()
    evaluate = evaluate or build_heldout(recipe.eval, recipe.template, run_dir, recipe.system_prompt, ranks)
    names = numbered(source.name for source in sources)
    files = {n: source for n, source, entry in zip(names, sources, recipe.data, strict=True) if entry.source != WORLD}
    data = {
        "data_hash": {name: hash_contents(sample.content for sample in source) for name, source in files.items()},
        "images": {
            name: hash_images(image for row in source for image in row.images) for name, source in files.items()
        },
    }
    if not resume:
        sources = screen(recipe, sources, load_adapter(recipe.model))
    with ExitStack() as stack:
        session = stack.enter_context(open_session(recipe, run_dir, data, evaluate, resume, engine, stop))
        if resume:  # the model of the recipe may be gone
            sources = screen(recipe, sources, session.policy.adapter)
        policy, schedule, state = session.policy, recipe.schedule, session.state
        mixture = Mixture(sources, [one.weight for one in recipe.data], recipe.seed)
        rows = [(s.name, s.size, len(s.unusable)) for s in sources if s.size is not None]
        if not same_rows(session, rows, resume) and state:
            state = {**state, "feed": {**state["feed"], "skipped": {}}}  # they are other rows now
        limits = PromptLimits(room_in(recipe, policy.adapter), max(entry.max_image_pixels for entry in recipe.data))
        prepare_one = partial(
            prepare, policy.adapter, template=recipe.template, system_prompt=recipe.system_prompt, limits=limits
        )
        feed = PromptFeed(mixture, prepare_one, state["feed"] if state else None, recipe.image_workers, ranks)
        stack.callback(feed.close)
        learner = build_learner(recipe, session)
        cache = FeatureCache(recipe.features, policy, run_dir / "features") if recipe.features.wanted else None
        collector = Collector(recipe, session, learner, feed, rubrics, cache)
        stack.callback(collector.close)
        session.before_evaluation = collector.wait
        trainer = Trainer(
            recipe=recipe,
            session=session,
            learner=learner,
            feed=feed,
            collector=collector,
            report=stack.enter_context(progress(f"rl {session.run.name}", schedule.max_steps, shown=ranks.is_first)),
            start=schedule.reopened(ScheduleState.from_dict(state["schedule"])) if state else ScheduleState(),
            skipped=sum(source.skipped + len(source.unusable) for source in sources),
            replay=None if recipe.update.replay is None else Replay(recipe.update.replay),
        )
        if session.resumed is not None:
            accepted = isinstance(resume, Resume) and resume.accept_changes
            trainer.restore(checkpoint.extras(session.resumed), accepted)
        session.baseline(trainer.loop_state(trainer.start), trainer.extras())
        yield trainer


def build_learner(recipe: RLRecipe, session: Session) -> Learner:
    """The policy with its loss; with a KL also the initial model, frozen: with LoRA the same one, adapters off."""
    reference = None
    if recipe.loss.kl_coef > 0 and session.policy.adapters is not None:
        reference = session.policy.base_view()
    elif recipe.loss.kl_coef > 0:
        changes: dict[str, Any] = {"train": (), "gradient_checkpointing": False}
        saved = session.resumed.path / checkpoint.REFERENCE if session.resumed is not None else None
        refreshed = saved is not None and saved.is_dir()
        frozen = recipe.model.model_copy(update=changes | ({"path": str(saved)} if refreshed else {}))
        reference = load_policy(frozen, shard=session.shard)
        session.reference = reference if refreshed else None
    directory, policy = session.run.directory / "nonfinite", session.policy
    if session.ranks.size > 1:
        directory = directory / f"process-{session.ranks.rank}"

    def keep(batches: Sequence[PolicyBatch]) -> None:
        dump_batches(directory, policy.version, batches)

    update = recipe.update.resolved(recipe.objective, recipe.rollout.staleness)
    return open_learner(policy, session.optimizer, recipe.objective, update, reference, keep, session.ranks)


def check_rubrics(recipe: RLRecipe, sources: list[Source], rubrics: StageRubrics) -> set[str]:
    """Builds the rubric of each task in each stage and returns the names of the tasks. ValueError for a missing rubric,
    and for a row that names a missing reward, before any long work."""
    tasks: set[str] = set()
    for entry, source in zip(recipe.data, sources, strict=True):
        unused = replaced = 0
        for sample in [source[0]] if entry.source == WORLD else source:
            tasks.add(sample.task)
            check_row(sample)
            unused += later_replies(sample)
            replaced += bool(recipe.system_prompt) and bool(turns_before(sample))
        if unused:
            log.warning("%s: %d replies of later turns are not used: RL asks the first question", source.name, unused)
        if replaced:
            log.warning("%s: the system turns of %d rows replace system_prompt", source.name, replaced)
    for stage in recipe.stages:
        rubric_of = rubrics(stage)
        check_weights(recipe, stage, [part.name for task in sorted(tasks) for part in rubric_of(task).parts])
    return tasks


def check_weights(recipe: RLRecipe, stage: Stage, parts: Sequence[str]) -> None:
    """ValueError for weights of rewards that no rubric of the stage has."""
    advantage = recipe.loss.advantage
    if advantage.kind == "gdpo" and (unknown := sorted(set(advantage.weights) - set(parts))):
        raise ValueError(
            f"loss.advantage.weights: got {', '.join(unknown)}, but the rubrics of stage '{stage.name}' have the parts "
            f"{', '.join(sorted(set(parts)))}"
        )
