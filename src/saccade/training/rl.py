"""Reinforcement learning on groups: sample, score, center, update, record.

The loop is `train`; its parts are in lower packages or in the files beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from saccade.algorithm import build_advantages
from saccade.config import dump
from saccade.data import Mixture, Source, open_source
from saccade.data.sources import WORLD
from saccade.grading import math_pool
from saccade.models.feature_cache import FeatureCache
from saccade.models.forward import vision_features
from saccade.models.policy import load_adapter, load_policy
from saccade.rewards import check_row
from saccade.rollout.collect import Collected, center, check_failures, collect, collect_step, rubrics_of
from saccade.rollout.engine import Engine
from saccade.rollout.groups import Group
from saccade.rollout.prompts import Prompt, check_lengths, prepare
from saccade.rollout.seeds import derive_seed
from saccade.rollout.stages import ScheduleState, Stage
from saccade.runs.environment import hash_source
from saccade.runs.progress import ProgressFn, progress
from saccade.runs.stopping import Stop
from saccade.tasks import TASKS
from saccade.tasks.answers import MATHEMATICS
from saccade.tasks.conversation import later_replies, turns_before
from saccade.training.config import RLRecipe
from saccade.training.group_metrics import glance, group_metrics, truncated_share
from saccade.training.group_shares import GroupShares
from saccade.training.heldout import build_heldout, right
from saccade.training.loop import Evaluate, RunResult, Session, Stopwatch, open_session, peak_memory_mb
from saccade.training.nonfinite import dump_batches
from saccade.training.opening import check_shard
from saccade.training.optim import learning_rate
from saccade.training.policy_step import Learner, PolicyBatch, open_learner, policy_step
from saccade.training.prompt_feed import PromptFeed
from saccade.training.ranks import join
from saccade.training.resuming import Resume
from saccade.training.screening import screen

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
        while not state.finished:
            stage = schedule.stage(state)
            trainer.engine.sync(trainer.session.policy)
            collected = trainer.collect(state, stage)  # generate, score, center within each group
            metrics = trainer.update(collected, state, stage)  # one optimizer step
            state = schedule.advance(state, truncated_share(collected.generated))
            trainer.record(state, stage, collected, metrics)  # files, evaluation and checkpoint when due
            del collected  # its vision features are not kept beside those of the next step
            if trainer.session.ended:
                break
        return trainer.session.result(state.step)


@dataclass(eq=False)
class Trainer:
    """The parts of an RL run, and the operations of its loop."""

    recipe: RLRecipe
    session: Session
    learner: Learner
    feed: PromptFeed
    report: ProgressFn
    start: ScheduleState
    """Where the loop begins: at step 0, or after the step of the checkpoint."""
    skipped: int = 0
    """Rows that were skipped before the first step."""
    cache: FeatureCache | None = None
    watch: Stopwatch = field(default_factory=Stopwatch)
    """Of the current step."""
    shares: GroupShares | None = None
    """Of the current step."""

    @property
    def engine(self) -> Engine:
        return self.session.engine

    def collect(self, state: ScheduleState, stage: Stage) -> Collected:
        """The groups of the next step, from all processes. Its randomness depends only on (seed, step)."""
        recipe, rollout, policy = self.recipe, self.recipe.rollout, self.session.policy
        rubric_of = rubrics_of(stage, TASKS, recipe.rubrics)
        n = recipe.prompts_in(stage)
        shares = GroupShares(self.session.ranks, policy.vision_cost)
        self.watch, self.shares = Stopwatch(), shares

        def collect_round(number: int) -> list[Group]:
            prompts = self._prompts(state, stage)
            with policy.whole():  # processes decode different numbers of tokens
                with self.watch.phase("vision"):
                    mine = self._with_features(shares.share(number, prompts))
                groups = generate(number, mine)
            with self.watch.phase("gather"):
                groups = shares.gather(groups, number)
            check_failures(groups, rollout.max_failed_share)
            return groups

        def generate(number: int, prompts: list[Prompt]) -> list[Group]:
            with self.watch.phase("rollout"):
                return collect(
                    self.engine,
                    rubric_of,
                    f"{state.step + 1}.{number}",
                    dict(zip(shares.places(n), prompts, strict=True)),
                    sampling=stage.sampling_from(rollout.sampling),
                    group_size=stage.group_size,
                    seed=derive_seed(recipe.seed, state.step, number),
                )

        found = collect_step(collect_round, rollout.resample_rounds)
        advantages = build_advantages(recipe.loss.advantage)
        return replace(
            found,
            groups=tuple(center(found.groups, advantages)),
            set_aside=tuple(center(found.set_aside, advantages)),
        )

    def _prompts(self, state: ScheduleState, stage: Stage) -> Sequence[Prompt]:
        """All prompts of a round, the same in every process."""
        with self.watch.phase("prompts"):
            more = state.step + 1 < self.recipe.schedule.max_steps
            prompts = self.feed(self.recipe.prompts_in(stage), ahead=more)
            check_lengths(prompts, stage.max_new_tokens, self.session.policy.context_length)
        return prompts

    @torch.no_grad()
    def _with_features(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """With the vision features that all passes of the step share."""
        policy = self.session.policy
        run = partial(vision_features, policy) if self.cache is None else partial(self.cache.features, policy)
        features = run([prompt.encoded for prompt in prompts])
        return [replace(prompt, features=one) for prompt, one in zip(prompts, features, strict=True)]

    def _mine(self, groups: Sequence[Group]) -> list[Group]:
        """The groups that this process trains on; those from other processes have no features yet."""
        assert self.shares is not None  # set when groups were collected
        mine = self.shares.mine(groups)
        if self.session.policy.vision_is_frozen():  # otherwise the update encodes them itself
            new = [i for i, group in enumerate(mine) if group.prompt.features is None]
            prompts = self._with_features([mine[i].prompt for i in new]) if new else []
            for i, prompt in zip(new, prompts, strict=True):
                mine[i] = replace(mine[i], prompt=prompt)
        return mine

    def update(self, collected: Collected, state: ScheduleState, stage: Stage) -> dict[str, float]:
        """One optimizer step (or `updates_per_rollout`) on the groups."""
        with self.watch.phase("update"):
            metrics = policy_step(
                self.learner,
                self._mine(collected.groups),
                temperature=stage.sampling_from(self.recipe.rollout.sampling).temperature,
                max_length=stage.max_new_tokens,
                lr=learning_rate(self.recipe.optim, state.step + 1, self.recipe.schedule.max_steps),
            )
        if metrics["update/skipped"]:
            log.warning("step %d: no update: %s", state.step + 1, why_no_update(collected.generated, metrics))
        config, gap = self.learner.config, metrics.get("sampler/gap_mean", 0.0)
        limit = config.sampler_gap_limit or 0.0
        if config.old_logprobs == "sampler" and gap > limit:
            log.warning(
                "step %d: the engine's log-probs are %.3g nats a token from the trainer's, more than "
                "update.sampler_gap_limit %g: ratios do not start from 1; set update.old_logprobs: recompute",
                *(state.step + 1, gap, limit),
            )
        return metrics

    def record(self, state: ScheduleState, stage: Stage, collected: Collected, metrics: Mapping[str, float]) -> None:
        """Files and the live line; `state` is the one after the step, whose number it names."""
        run, groups, watch = self.session.run, list(collected.generated), self.watch
        with watch.phase("grade"):
            seen = group_metrics(groups, right) if run.writes else {}
        with watch.phase("records"):
            run.rollouts(state.step, stage.name, groups, self.recipe.keep_tokens)
            if run.writes and self.shares is not None:
                keep = self.recipe.images_per_step
                groups[:keep] = [self.shares.with_images(group) for group in groups[:keep]]
            run.groups(state.step, groups, self.recipe.images_per_step)
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
        saved = {"schedule": state.to_dict(), "feed": dict(self.feed.state)}
        self.session.end_step(state.step, row, saved, last=state.finished)
        shown = glance(seen)
        if self.session.best_score is not None:
            shown["best"] = self.session.best_score
        self.report(state.step, shown)


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
    for stage in recipe.stages:
        ranks.check_share(recipe.prompts_in(stage), f"prompts_per_step of stage '{stage.name}'")
    sources = [open_source(one) for one in recipe.data]
    if MATHEMATICS in check_rubrics(recipe, sources):
        math_pool.shared().warm_up()
    evaluate = evaluate or build_heldout(recipe.eval, recipe.template, run_dir, recipe.system_prompt, ranks)
    hashes = {s.name: hash_source(c.path, dump(c)) for s, c in zip(sources, recipe.data, strict=True)}
    if not resume:
        sources = screen(recipe, sources, load_adapter(recipe.model))
    with ExitStack() as stack:
        session = stack.enter_context(open_session(recipe, run_dir, hashes, evaluate, resume, engine, stop))
        if resume:  # the model of the recipe may be gone
            sources = screen(recipe, sources, session.policy.adapter)
        session.baseline()
        policy, schedule, state = session.policy, recipe.schedule, session.state
        mixture = Mixture(sources, [one.weight for one in recipe.data], recipe.seed)
        prepare_one = partial(prepare, policy.adapter, template=recipe.template, system_prompt=recipe.system_prompt)
        feed = PromptFeed(mixture, prepare_one, state["feed"] if state else None, recipe.image_workers)
        stack.callback(feed.close)
        yield Trainer(
            recipe=recipe,
            session=session,
            learner=build_learner(recipe, session),
            feed=feed,
            report=stack.enter_context(progress(f"rl {session.run.name}", schedule.max_steps, shown=ranks.is_first)),
            start=schedule.reopened(ScheduleState.from_dict(state["schedule"])) if state else ScheduleState(),
            skipped=sum(source.skipped + len(source.unusable) for source in sources),
            cache=FeatureCache(recipe.features, policy, run_dir / "features") if recipe.features.wanted else None,
        )


def build_learner(recipe: RLRecipe, session: Session) -> Learner:
    """The policy with its loss; with a KL also the initial model, frozen: with LoRA the same one, adapters off."""
    reference = None
    if recipe.loss.kl_coef > 0 and session.policy.adapters is not None:
        reference = session.policy.base_view()
    elif recipe.loss.kl_coef > 0:
        frozen = recipe.model.model_copy(update={"train": (), "gradient_checkpointing": False})
        reference = load_policy(frozen, shard=session.shard)
    directory, policy = session.run.directory / "nonfinite", session.policy
    if session.ranks.size > 1:
        directory = directory / f"process-{session.ranks.rank}"

    def keep(batches: Sequence[PolicyBatch]) -> None:
        dump_batches(directory, policy.version, batches)

    return open_learner(policy, session.optimizer, recipe.loss, recipe.update, reference, keep, session.ranks)


def check_rubrics(recipe: RLRecipe, sources: list[Source]) -> set[str]:
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
        rubric_of = rubrics_of(stage, TASKS, recipe.rubrics)
        for task in sorted(tasks):
            rubric_of(task)
    return tasks
