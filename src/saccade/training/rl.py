"""Reinforcement learning on groups: sample, score, centre, update, record.

The loop is `train`; what it is made of lives one floor down or in the files beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator

from saccade.algorithm import LossConfig, build_advantages, build_loss
from saccade.config import Config, dump
from saccade.data import DataConfig, Mixture, Source, open_source
from saccade.data.sources import WORLD
from saccade.models.adapter import EncodedPrompt
from saccade.models.feature_cache import FeatureCache, FeatureCacheConfig
from saccade.models.forward import Features, vision_features
from saccade.models.policy import ModelConfig, load_policy
from saccade.rewards import RubricConfig, check_row
from saccade.rollout.builtin import BuiltinEngine
from saccade.rollout.collect import (
    Collected,
    RolloutConfig,
    check_failures,
    collect,
    collect_step,
    rubrics_of,
    sampling_of,
    step_seed,
)
from saccade.rollout.engine import Engine
from saccade.rollout.prompts import PromptBatch, check_lengths
from saccade.rollout.stages import Schedule, ScheduleState, Stage
from saccade.runs.environment import hash_source
from saccade.runs.progress import Report, progress
from saccade.tasks import TASKS
from saccade.training.checkpoint import CheckpointConfig
from saccade.training.group_metrics import group_metrics, truncated_share
from saccade.training.heldout import EvalConfig, build_heldout, right
from saccade.training.loop import Evaluate, Opening, Outcome, Session, Stopwatch, open_session, peak_memory_mb
from saccade.training.nonfinite import dump_batches
from saccade.training.optim import OptimConfig, learning_rate
from saccade.training.policy_step import Learner, UpdateConfig, policy_step
from saccade.training.prompt_feed import PromptFeed
from saccade.types import Group

log = logging.getLogger(__name__)


class RLRecipe(Config):
    """A reinforcement-learning run. The defaults are one neutral setting; presets hold those of the papers."""

    kind: Literal["rl"] = "rl"
    seed: int = 0
    model: ModelConfig
    data: tuple[DataConfig, ...] = Field(min_length=1)
    """Sources, mixed by weight."""
    template: str | None = None
    """Wording of all prompts; None is each task's own."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    num_steps: int | None = Field(default=None, ge=1)
    """Ends the last stage if that has no 'until'."""
    prompts_per_step: int = Field(default=16, ge=1)
    """Groups per step, unless a stage overrides it."""
    rubrics: dict[str, RubricConfig] = Field(default_factory=dict)
    """Rubrics of this recipe, by the names that stages use; they go before the tasks' own."""
    rollout: RolloutConfig = RolloutConfig()
    loss: LossConfig = LossConfig()
    update: UpdateConfig = UpdateConfig()
    features: FeatureCacheConfig = FeatureCacheConfig()
    """Keeping vision features for later steps; within a step they are always shared."""
    optim: OptimConfig
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    images_per_step: int = Field(default=2, ge=0)
    """Prompts per step whose images are saved with the records, for the report."""

    @model_validator(mode="after")
    def _stages_fit(self) -> RLRecipe:
        Schedule(self.stages, self.num_steps)
        unused = set(self.rubrics) - {stage.rubric for stage in self.stages}
        if unused:
            raise ValueError(f"rubrics: no stage uses {', '.join(sorted(unused))}; name it in a stage or remove it")
        return self

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.stages, self.num_steps)

    def prompts_in(self, stage: Stage) -> int:
        return stage.prompts_per_step or self.prompts_per_step


def train(
    recipe: RLRecipe,
    run_dir: Path,
    evaluate: Evaluate | None = None,
    resume: bool = False,
    engine: Engine | None = None,
) -> Outcome:
    """Trains as the recipe says and leaves a run directory; returns the trained policy and what was best.

    `evaluate` replaces the recipe's own held-out evaluation; `engine` the built-in one. Raises before anything is
    written when the recipe, the data or the model is not right; TrainingStopped when gradients stay non-finite.
    """
    with open_trainer(recipe, run_dir, evaluate, resume, engine) as trainer:
        state, schedule = trainer.start, recipe.schedule
        while not state.finished:
            watch, stage = Stopwatch(), schedule.stage(state)
            trainer.engine.sync(trainer.session.policy, version=state.step)
            collected = trainer.collect(state, stage, watch)  # generate, score, centre within each group
            metrics = trainer.update(collected, state, stage, watch)  # one optimiser step
            state = schedule.advance(state, truncated_share(collected.generated))
            trainer.record(state, stage, collected, metrics, watch)  # files, evaluation and checkpoint when due
            del collected  # its vision features are not kept beside those of the next step
        return trainer.session.outcome(state.step)


@dataclass(eq=False)
class Trainer:
    """The parts of a run, and the verbs of its loop."""

    recipe: RLRecipe
    session: Session
    learner: Learner
    engine: Engine
    feed: PromptFeed
    report: Report
    start: ScheduleState
    """Where the loop begins: at step 0, or where the checkpoint stood."""
    cache: FeatureCache | None = None

    @torch.no_grad()
    def features(self, prompts: Sequence[EncodedPrompt]) -> Features:
        """What all passes of the step under the present weights share."""
        policy = self.session.policy
        return vision_features(policy, prompts) if self.cache is None else self.cache.features(policy, prompts)

    def collect(self, state: ScheduleState, stage: Stage, watch: Stopwatch) -> Collected:
        """The groups of the next step. Its randomness is that of (seed, step) alone."""
        recipe = self.recipe
        rubric_of = rubrics_of(stage, TASKS, recipe.rubrics)
        sampling, center = sampling_of(stage, recipe.rollout), build_advantages(recipe.loss.advantage)

        def fresh(number: int) -> PromptBatch:
            with watch.phase("prompts"):
                prompts = self.feed(state.step, number, recipe.prompts_in(stage))
                check_lengths(prompts, stage.max_new_tokens, self.session.policy.context_length)
            with watch.phase("vision"):
                features = self.features([prompt.encoded for prompt in prompts])
            return PromptBatch(f"{state.step + 1}.{number}", prompts, features)

        def groups_of(batch: PromptBatch, number: int) -> list[Group]:
            seed = step_seed(recipe.seed, state.step, number)
            with watch.phase("rollout"):
                groups = collect(self.engine, rubric_of, batch, stage, sampling=sampling, seed=seed, center=center)
            check_failures(groups, recipe.rollout.max_failed_share)
            return groups

        return collect_step(fresh, groups_of, recipe.rollout.resample_rounds)

    def update(self, collected: Collected, state: ScheduleState, stage: Stage, watch: Stopwatch) -> dict[str, float]:
        """One optimiser step (or `updates_per_rollout`) on the groups."""
        sampling = sampling_of(stage, self.recipe.rollout)
        with watch.phase("update"):
            metrics = policy_step(
                self.learner,
                collected.groups,
                collected.features,
                temperature=sampling.temperature,
                max_length=stage.max_new_tokens,
                lr=learning_rate(self.recipe.optim, state.step + 1, self.recipe.schedule.max_steps),
            )
        if metrics["update/skipped"]:
            log.warning("step %d: no update: %s", state.step + 1, why_no_update(collected.generated, metrics))
        config, gap = self.recipe.update, metrics.get("sampler/gap_mean", 0.0)
        if config.old_logprobs == "sampler" and gap > config.sampler_gap_limit:
            log.warning(
                "step %d: the engine's log-probs are %.3g nats a token from the trainer's, more than "
                "update.sampler_gap_limit %g: ratios do not start from 1; set update.old_logprobs: recompute",
                *(state.step + 1, gap, config.sampler_gap_limit),
            )
        return metrics

    def record(
        self, state: ScheduleState, stage: Stage, collected: Collected, metrics: Mapping[str, float], watch: Stopwatch
    ) -> None:
        """Files and the live line; `state` is the one after the step, whose number it names."""
        run, groups = self.session.run, collected.generated
        with watch.phase("grade"):
            seen = group_metrics(groups, right)
        with watch.phase("records"):
            run.rollouts(state.step, stage.name, groups)
            images = [prompt.images for prompt in collected.prompts]
            run.groups(state.step, groups, images, self.recipe.images_per_step)
        times = watch.metrics()
        tokens = sum(len(r.completion.token_ids) for group in groups for r in group.rollouts)
        row: dict[str, float | str | None] = {
            "stage": stage.name,
            **seen,
            "rollout/rounds": float(collected.rounds),
            "groups/set_aside": float(len(collected.set_aside)),
            **metrics,
            **times,
            "tokens/count": float(tokens),
            "tokens/per_s": tokens / times["time/step_s"],
            "memory/peak_mb": peak_memory_mb(self.session.policy.device),
        }
        self.session.end_step(state.step, row, state.to_dict(), last=state.finished)
        glance = {"reward": seen.get("reward/total", 0.0), "length": seen.get("length/mean", 0.0)}
        if self.session.best_score is not None:
            glance["best"] = self.session.best_score
        self.report(state.step, glance)


def why_no_update(groups: Sequence[Group], metrics: Mapping[str, float]) -> str:
    """The reason in words. That all rewards failed must not read as if the model had earned equal ones."""
    if metrics["update/nonfinite"]:
        return "a gradient that is not finite"
    masks = [rollout.score.masked for group in groups for rollout in group.rollouts]
    if masks and None not in masks:
        return f"every rollout is masked, the first by: {masks[0]}"
    return "all groups have equal rewards"


@contextmanager
def open_trainer(
    recipe: RLRecipe, run_dir: Path, evaluate: Evaluate | None, resume: bool, engine: Engine | None
) -> Iterator[Trainer]:
    """Everything that a run needs, checked from cheap to dear and before anything is written."""
    sources = [open_source(one) for one in recipe.data]
    check_rubrics(recipe, sources)
    evaluate = evaluate or build_heldout(recipe.eval, recipe.template)
    hashes = {s.name: hash_source(c.path, dump(c)) for s, c in zip(sources, recipe.data, strict=True)}
    opening = Opening(recipe, recipe.model, recipe.optim, recipe.checkpoint, recipe.eval.every, hashes)
    session = open_session(opening, run_dir, evaluate, resume)
    session.baseline()
    policy, schedule = session.policy, recipe.schedule
    mixture = Mixture(sources, [one.weight for one in recipe.data], recipe.seed)
    feed = PromptFeed(mixture, policy.adapter, recipe.rollout.resample_rounds + 1, recipe.template, schedule.max_steps)
    with ExitStack() as stack:
        stack.callback(feed.close)
        yield Trainer(
            recipe=recipe,
            session=session,
            learner=build_learner(recipe, session),
            engine=engine or BuiltinEngine(policy, recipe.rollout.max_rows, recipe.rollout.cuda_graphs),
            feed=feed,
            report=stack.enter_context(progress(f"rl {session.run.name}", schedule.max_steps)),
            start=ScheduleState.from_dict(session.state) if session.state else ScheduleState(),
            cache=FeatureCache(recipe.features, policy, run_dir / "features") if recipe.features.wanted else None,
        )


def build_learner(recipe: RLRecipe, session: Session) -> Learner:
    """The policy with its loss; with a KL also the model that the run began with, frozen."""
    reference = None
    if recipe.loss.kl_coef > 0:
        frozen = recipe.model.model_copy(update={"train": (), "gradient_checkpointing": False})
        reference = load_policy(frozen)
    directory, policy = session.run.directory / "nonfinite", session.policy
    return Learner(
        policy,
        session.optimizer,
        build_loss(recipe.loss),
        recipe.update,
        reference,
        dump=lambda batches: dump_batches(directory, policy.version, batches),
    )


def check_rubrics(recipe: RLRecipe, sources: list[Source]) -> None:
    """Builds the rubric of each task in each stage. ValueError for one that there is not, and for a row that names a
    reward that there is not, before any long work."""
    tasks: set[str] = set()
    for entry, source in zip(recipe.data, sources, strict=True):
        for sample in [source[0]] if entry.source == WORLD else source:
            tasks.add(sample.task)
            check_row(sample)
    for stage in recipe.stages:
        rubric_of = rubrics_of(stage, TASKS, recipe.rubrics)
        for task in sorted(tasks):
            rubric_of(task)
