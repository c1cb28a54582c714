"""Collecting groups: generate, score, centre within each group; optionally replace groups that teach nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field, model_validator

from saccade.algorithm.advantages import Center
from saccade.config import Config
from saccade.models.forward import Features
from saccade.rewards import Rubric, RubricConfig, is_failure, score_all
from saccade.rollout.engine import CudaGraphs, Engine, Sampling, check_endings
from saccade.rollout.prompts import PreparedPrompt, PromptBatch, join_features
from saccade.rollout.stages import Stage
from saccade.tasks import Task
from saccade.types import Completion, Group, Rollout

RubricOf = Callable[[str], Rubric]
"""Name of a task -> what scores its replies."""


class RolloutConfig(Config):
    """How replies are drawn, unless a stage overrides it. The defaults sample what is trained."""

    temperature: float = Field(default=1.0, gt=0.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    """0 keeps all tokens."""
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    """Tokens at least this many times as likely as the likeliest; 0 keeps all."""
    stop_strings: tuple[str, ...] = ()
    """A reply ends with the token that completes one of these, such as '</answer>', and keeps it."""
    repetition_stop: int = Field(default=0, ge=0)
    """A reply ends when its last tokens are one run of 1 to 64 tokens, that many times in a row; 0 lets it go on."""
    resample_rounds: int = Field(default=0, ge=0)
    """Dynamic sampling: rounds of fresh prompts, at most, that replace a step's groups of equal rewards; 0 is off."""
    max_rows: int = Field(default=512, ge=1)
    """Replies that the built-in engine decodes at once."""
    cuda_graphs: CudaGraphs = "auto"
    """The built-in engine replays decoding steps as CUDA graphs. auto: where the model is on a GPU and every recording
    proves equal to its step; on: or the run stops; off: no."""
    max_failed_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """A run stops when a reward fails (not: gives 0) for more than this share of a round's replies; 1 never stops."""

    @model_validator(mode="after")
    def _possible(self) -> RolloutConfig:
        check_endings(self.stop_strings, self.repetition_stop)
        return self


def sampling_of(stage: Stage, draw: RolloutConfig) -> Sampling:
    """The stage's own options where it has them, the recipe's where it does not."""
    return Sampling(
        max_new_tokens=stage.max_new_tokens,
        temperature=draw.temperature if stage.temperature is None else stage.temperature,
        top_p=draw.top_p if stage.top_p is None else stage.top_p,
        top_k=draw.top_k if stage.top_k is None else stage.top_k,
        min_p=draw.min_p,
        stop_strings=draw.stop_strings,
        repetition_stop=draw.repetition_stop,
    )


def step_seed(seed: int, *parts: int) -> int:
    """A seed that depends on the run's seed and, say, step and round, and on nothing that happened before."""
    digest = hashlib.sha256("/".join(map(str, (seed, *parts))).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def rubrics_of(stage: Stage, tasks: Mapping[str, Task], own: Mapping[str, RubricConfig]) -> RubricOf:
    """The rubric of each task in a stage: the recipe's own one of that name, else the task's; built once.

    ValueError for an unknown task or rubric; call it for all tasks before a run to find that out early.
    """
    built: dict[str, Rubric] = {}

    def rubric_of(task: str) -> Rubric:
        if task not in built:
            if task not in tasks:
                raise ValueError(f"got task {task!r}; expected one of {', '.join(tasks)}")
            named = own.get(stage.rubric) if stage.rubric else None
            rubric = named.build() if named else tasks[task].rubric(stage.rubric)
            built[task] = Rubric(rubric.parts, stage.truncated) if stage.truncated else rubric
        return built[task]

    return rubric_of


def score_groups(
    names: Sequence[str],
    prompts: Sequence[PreparedPrompt],
    replies: Sequence[Sequence[Completion]],
    rubric_of: RubricOf,
) -> list[Group]:
    """Groups with scores, all replies scored together; their advantages are still 0.

    A failure of our own code masks a rollout: it must never look like a wrong answer.
    """
    rubrics = [rubric_of(prompt.sample.task) for prompt in prompts]
    items = [
        (rubric, one, prompt.sample)
        for rubric, prompt, group in zip(rubrics, prompts, replies, strict=True)
        for one in group
    ]
    scores = iter(score_all(items))
    return [
        Group(name, prompt.sample, tuple(Rollout(prompt.sample, one, next(scores)) for one in group), prompt.encoded)
        for name, prompt, group in zip(names, prompts, replies, strict=True)
    ]


class RewardsFailed(ValueError):
    """Too many replies of a step could not be scored; the message says why."""


def check_failures(groups: Sequence[Group], limit: float) -> None:
    """RewardsFailed when more than the share `limit` of the replies is masked because a reward failed."""
    scores = [rollout.score for group in groups for rollout in group.rollouts]
    failed = [score.masked for score in scores if is_failure(score)]
    if failed and len(failed) > limit * len(scores):
        raise RewardsFailed(
            f"rewards failed for {len(failed)} of {len(scores)} replies, more than rollout.max_failed_share {limit:g}; "
            f"the first: {failed[0]}. Mend it and go on with 'saccade resume', or raise the share to train on the rest"
        )


def centre_group(group: Group, center: Center) -> Group:
    """The group with the advantage of each rollout among its siblings; a masked one gets 0 and is not counted."""
    rewards_G = torch.tensor([r.score.value for r in group.rollouts], dtype=torch.float64)
    mask_G = torch.tensor([r.score.masked is None for r in group.rollouts])
    rollouts = tuple(
        Rollout(r.sample, r.completion, r.score, advantage)
        for r, advantage in zip(group.rollouts, center(rewards_G, mask_G).tolist(), strict=True)
    )
    return Group(group.id, group.sample, rollouts, group.prompt)


def collect(
    engine: Engine,
    rubric_of: RubricOf,
    batch: PromptBatch,
    stage: Stage,
    *,
    sampling: Sampling,
    seed: int,
    center: Center,
) -> list[Group]:
    """One group of `stage.group_size` completions per prompt, scored and centred, in order.

    Rewards run after all generation is done, so a slow reward never holds a half-decoded batch.
    """
    encoded = [prompt.encoded for prompt in batch.prompts]
    replies = engine.generate(encoded, sampling, stage.group_size, seed, features=batch.features)
    names = [f"{batch.name}-{i}" for i in range(len(batch.prompts))]
    return [centre_group(group, center) for group in score_groups(names, batch.prompts, replies, rubric_of)]


@dataclass(frozen=True, slots=True)
class Collected:
    """The groups of one step."""

    groups: tuple[Group, ...]
    """Those that the step trains on."""
    features: Features | None
    """Vision features of `groups`, in order."""
    set_aside: tuple[Group, ...] = ()
    """Generated but replaced (dynamic sampling): in the records, not in the update and not in its denominators."""
    rounds: int = 1
    """Calls of the engine."""
    prompts: tuple[PreparedPrompt, ...] = ()
    """Of all groups, `groups` first."""

    @property
    def generated(self) -> tuple[Group, ...]:
        return self.groups + self.set_aside


def collect_step(
    fresh: Callable[[int], PromptBatch], collect_batch: Callable[[PromptBatch, int], list[Group]], extra_rounds: int
) -> Collected:
    """The groups of a step: one round, and with `extra_rounds` DAPO's dynamic sampling (arXiv:2503.14476, section 3.2).

    `fresh(r)` gives the prompts of round r and `collect_batch(batch, r)` their groups. Without extra rounds all groups
    are kept: those of equal rewards carry no gradient but count in metrics and denominators. With them, such groups are
    set aside and fresh prompts drawn until round 0's number of groups is reached or the rounds are spent; what is then
    still missing stays missing.
    """
    kept: list[tuple[Group, PreparedPrompt, Features | None]] = []
    aside: list[tuple[Group, PreparedPrompt]] = []
    wanted, rounds = 0, 0
    for number in range(extra_rounds + 1):
        batch = fresh(number)
        wanted, rounds = wanted or len(batch.prompts), number + 1
        for i, (group, prompt) in enumerate(zip(collect_batch(batch, number), batch.prompts, strict=True)):
            if extra_rounds == 0 or (group.has_signal and len(kept) < wanted):
                kept.append((group, prompt, None if batch.features is None else batch.features.take([i])))
            else:
                aside.append((group, prompt))
        if len(kept) >= wanted:
            break
    return Collected(
        groups=tuple(group for group, _, _ in kept),
        features=join_features([features for _, _, features in kept]),
        set_aside=tuple(group for group, _ in aside),
        rounds=rounds,
        prompts=tuple(prompt for _, prompt, _ in kept) + tuple(prompt for _, prompt in aside),
    )
