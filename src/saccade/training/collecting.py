"""The groups of one step: prompts drawn, replies sampled and scored, shared with the other processes, centered.

With `rollout.staleness` 1 the first round of the next step is sampled in a thread while this step trains. Everything
that uses the trainer's own model or talks to other processes stays in the main thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from saccade.algorithm import build_advantages
from saccade.models.feature_cache import FeatureCache
from saccade.models.forward import vision_features
from saccade.rollout.collect import Collected, RubricOf, StageRubrics, center, check_failures, collect, collect_step
from saccade.rollout.groups import Group
from saccade.rollout.prompts import Prompt, check_lengths
from saccade.rollout.seeds import derive_seed
from saccade.rollout.stages import ScheduleState, Stage
from saccade.training.before_update import kl_in_reward
from saccade.training.clocks import Stopwatch
from saccade.training.config import RLRecipe
from saccade.training.group_shares import GroupShares
from saccade.training.learner import Learner
from saccade.training.loop import Session
from saccade.training.prompt_feed import PromptFeed
from saccade.training.stored_groups import group_from, plain_group, same_samples
from saccade.types import Sample

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Round:
    """The prompts of a round, and what is known about them before they have replies."""

    number: int
    step: int
    """Finished steps."""
    stage: Stage
    prompts: Sequence[Prompt | Sample]
    """This process's prompts, and the samples of the others."""
    first: int
    """Position of the first prompt in the stream of samples."""

    @property
    def name(self) -> str:
        """Prefix of the groups' ids."""
        return f"{self.step + 1}.{self.number}"


@dataclass(eq=False)
class Ahead:
    """A round that is being sampled while the step before it trains."""

    round: Round
    future: Future[tuple[list[Group], float]]
    """This process's groups, and the seconds that they took."""


@dataclass(eq=False)
class StepGroups:
    """The groups of a step, with what its update and its records need besides."""

    collected: Collected
    shares: GroupShares
    positions: dict[str, int]
    """Position in the stream of samples, by the groups' ids."""


@dataclass(eq=False)
class Collector:
    """Collects the groups of each step. Its randomness depends only on (seed, step)."""

    recipe: RLRecipe
    session: Session
    learner: Learner
    feed: PromptFeed
    rubrics: StageRubrics
    cache: FeatureCache | None = None
    watch: Stopwatch = field(default_factory=Stopwatch)
    """Of the current step."""
    ahead: Ahead | None = None
    _sampling: Future[tuple[list[Group], float]] | None = None
    """Of the round that the thread began last."""

    def collect(self, state: ScheduleState, stage: Stage) -> StepGroups:
        """The groups of the next step, from all processes."""
        recipe, ranks = self.recipe, self.session.ranks
        self.watch = Stopwatch()
        shares = GroupShares(ranks, self.session.policy.vision_cost, self.feed.prepare)
        rubric_of = self.rubrics(stage)
        positions: dict[str, int] = {}

        def collect_round(number: int) -> list[Group]:
            taken = self._take_ahead(state) if number == 0 else None
            step_round = taken.round if taken is not None else self.draw(number, state, stage)
            mine = shares.share(number, step_round.prompts)
            if taken is not None:
                with self.watch.phase("wait"):
                    groups, seconds = taken.future.result()
                self.watch.phases["rollout"] = seconds
            else:
                groups = self._sample_now(step_round, mine, shares, rubric_of)
            with self.watch.phase("gather"):
                groups = shares.gather(groups, number)
            positions.update({group.id: step_round.first + i for i, group in enumerate(groups)})
            check_failures(groups, recipe.rollout.max_failed_share)
            return groups

        found = collect_step(collect_round, recipe.rollout.resample_rounds)
        return StepGroups(self._credited(found, stage, shares, rubric_of), shares, positions)

    def _sample_now(
        self, step_round: Round, mine: Sequence[Prompt], shares: GroupShares, rubric_of: RubricOf
    ) -> list[Group]:
        """With the current weights: an engine that sampled ahead, or was just opened, has others."""
        self.session.engine.sync(self.session.policy)
        with self.session.policy.whole():  # processes decode different numbers of tokens
            with self.watch.phase("vision"):
                mine = self.with_features(mine)
            with self.watch.phase("rollout"):
                return self._sample(
                    step_round, dict(zip(shares.places(len(step_round.prompts)), mine, strict=True)), rubric_of
                )

    def _sample(self, step_round: Round, prompts: Mapping[int, Prompt], rubric_of: RubricOf) -> list[Group]:
        stage = step_round.stage
        return collect(
            self.session.engine,
            rubric_of,
            step_round.name,
            prompts,
            sampling=stage.sampling_from(self.recipe.rollout.sampling),
            group_size=stage.group_size,
            seed=derive_seed(self.recipe.seed, step_round.step, step_round.number),
        )

    def draw(self, number: int, state: ScheduleState, stage: Stage) -> Round:
        """The prompts of a round, in the same places in every process."""
        n = self.recipe.prompts_in(stage)
        with self.watch.phase("prompts"):
            first = int(self.feed.state["position"])
            prompts = self.feed(n, ahead=state.step + 1 < self.recipe.schedule.max_steps)
            mine = [one for one in prompts if isinstance(one, Prompt)]
            check_lengths(mine, stage.max_new_tokens, self.session.policy.context_length)
        return Round(number, state.step, stage, prompts, first)

    @torch.no_grad()
    def with_features(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """With the vision features that all passes of the step share."""
        policy = self.session.policy
        run = partial(vision_features, policy) if self.cache is None else partial(self.cache.features, policy)
        features = run([prompt.encoded for prompt in prompts])
        return [replace(prompt, features=one) for prompt, one in zip(prompts, features, strict=True)]

    def _credited(self, found: Collected, stage: Stage, shares: GroupShares, rubric_of: RubricOf) -> Collected:
        """With the advantages of all groups, after a KL was taken off their rewards."""
        config = self.recipe.loss.advantage
        advantages, parts = build_advantages(config), rubric_of if config.kind == "gdpo" else None
        groups = self._charged(found.groups, stage, shares)
        # those set aside are no part of what a whole step is normalized by
        aside = found.set_aside if config.whole_step else tuple(center(found.set_aside, advantages))
        return replace(found, groups=tuple(center(groups, advantages, parts)), set_aside=aside)

    def _charged(self, groups: Sequence[Group], stage: Stage, shares: GroupShares) -> Sequence[Group]:
        if self.recipe.loss.kl_coef == 0 or self.recipe.loss.kl_in != "reward":
            return groups
        temperature = stage.sampling_from(self.recipe.rollout.sampling).temperature
        with self.watch.phase("kl"):
            mine = kl_in_reward(self.learner, shares.mine(groups), temperature)
            found = {name: taken for one in self.session.ranks.gather(mine) for name, taken in one.items()}
        charged = []
        for group in groups:
            pairs = zip(group.rollouts, found[group.id], strict=True)
            charged.append(replace(group, rollouts=tuple(replace(r, kl_penalties=taken) for r, taken in pairs)))
        return charged

    # ------------------------------------------------------------------------------------------------ one step ahead

    def begin(self, state: ScheduleState, stage: Stage) -> None:
        """Gives the engine the current weights and begins to sample the first round of the step after this one. Its
        stage is decided here."""
        self.session.engine.sync(self.session.policy)
        self._begin(self.draw(0, state, stage))

    def _begin(self, step_round: Round) -> None:
        shares = GroupShares(self.session.ranks, self.session.policy.vision_cost, self.feed.prepare)
        mine = shares.share(step_round.number, step_round.prompts)
        prompts = dict(zip(shares.places(len(step_round.prompts)), mine, strict=True))
        rubric_of = self.rubrics(step_round.stage)

        future = self._sampling = Future[tuple[list[Group], float]]()

        def sample() -> None:
            watch = Stopwatch()
            try:
                with watch.phase("rollout"):
                    groups = self._sample(step_round, prompts, rubric_of)
                future.set_result((groups, watch.phases["rollout"]))
            except BaseException as error:  # noqa: BLE001 - raised in the main thread, by the step that trains on them
                future.set_exception(error)

        threading.Thread(target=sample, name="rollout", daemon=True).start()  # which a stop may leave behind
        self.ahead = Ahead(step_round, future)

    def _take_ahead(self, state: ScheduleState) -> Ahead | None:
        """The round of this step that was begun during the one before."""
        taken, self.ahead = self.ahead, None
        assert taken is None or taken.round.step == state.step
        return taken

    def wait(self) -> None:
        """Until the engine samples nothing, as before an evaluation."""
        if self.ahead is not None:
            with self.watch.phase("wait"):
                self.ahead.future.exception()  # which the step that trains on them raises

    def stored(self) -> Callable[[], dict[str, Any] | None]:
        """For a checkpoint: gives, when it is written, the round in flight as it is now, as plain data. Without groups
        where the engine failed, or a stop could not wait for them: they are sampled anew on resume."""
        ahead, ranks, stop = self.ahead, self.session.ranks, self.session.stop

        def plain() -> dict[str, Any] | None:
            if ahead is None:
                return None
            step_round, late = ahead.round, ranks.max(int(not stop.wait_for(ahead.future)))
            found: dict[str, Any] = {"step": step_round.step, "first": step_round.first, "groups": None}
            if late:
                text = "the replies of step %d, sampled ahead, were not there after the %g s of a stop and are dropped"
                log.warning(f"{text}; a resumed run samples them anew", step_round.step + 1, stop.grace_s)
            if late or ranks.max(int(ahead.future.exception() is not None)):
                return found
            groups, seconds = ahead.future.result()
            whole = ranks.merge(ranks.gather([plain_group(group) for group in groups]))
            return found | {"groups": whole, "seconds": seconds}

        return plain

    def restore(self, data: Mapping[str, Any], stage: Stage, accepted: bool) -> None:
        """The round in flight of a checkpoint, with its prompts prepared again. It is drawn again where it has no
        groups, and aloud where they are of no use: the data has other samples now, which was `accepted`, or no step is
        sampled ahead any more."""
        groups, prompts, why = data["groups"], tuple[Prompt, ...](), ""
        if groups is not None and not self.recipe.rollout.staleness:
            why = "rollout.staleness is 0 now"
        elif groups is not None:
            prompts = self.feed.again(range(data["first"], data["first"] + len(groups)))
            why = "" if all(same_samples(groups, prompts, accepted)) else "the data changed in their places"
        if why:
            log.warning("the replies that were sampled ahead are dropped: %s", why)
        if groups is None or why:
            self.feed.state = {**self.feed.state, "position": data["first"]}
            return
        whole = [group_from(one, prompt) for one, prompt in zip(groups, prompts, strict=True)]
        future: Future[tuple[list[Group], float]] = Future()
        future.set_result((self.session.ranks.mine(whole), float(data["seconds"])))
        self.ahead = Ahead(Round(0, data["step"], stage, prompts, data["first"]), future)

    def close(self) -> None:
        """Waits for the thread, unless a stop has no time left."""
        if self._sampling is not None:
            self.session.stop.wait_for(self._sampling)
