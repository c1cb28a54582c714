"""Collecting groups: generate, score, center; optionally replace groups without signal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from saccade.algorithm.advantages import Advantages, Credit, GroupRewards
from saccade.rewards import Rubric, RubricConfig, score_all
from saccade.rollout.config import Sampling
from saccade.rollout.engine import Engine
from saccade.rollout.groups import Group, Rollout
from saccade.rollout.prompts import Prompt
from saccade.rollout.seeds import derive_seed
from saccade.rollout.stages import Stage
from saccade.tasks import Task
from saccade.types import Completion, Sample

RubricOf = Callable[[str], Rubric]
"""Task name -> rubric that scores its replies."""


def rubrics_of(stage: Stage, tasks: Mapping[str, Task], own: Mapping[str, RubricConfig]) -> RubricOf:
    """The rubric of each task in a stage: the recipe's rubric of that name, otherwise the task's; built once.

    ValueError for an unknown task or rubric; call it for all tasks before a run to detect this early.
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


class StageRubrics:
    """The rubrics of all stages of a run, each built once: a reward's file counts as it was when the run began."""

    def __init__(self, tasks: Mapping[str, Task], own: Mapping[str, RubricConfig]) -> None:
        self._tasks, self._own = tasks, own
        self._built: dict[tuple[str | None, str | None], RubricOf] = {}

    def __call__(self, stage: Stage) -> RubricOf:
        """As `rubrics_of`."""
        key = (stage.rubric, stage.truncated)
        if key not in self._built:
            self._built[key] = rubrics_of(stage, self._tasks, self._own)
        return self._built[key]


def score_groups(
    name: str, prompts: Mapping[int, Prompt], replies: Sequence[Sequence[Completion]], rubric_of: RubricOf
) -> list[Group]:
    """Groups with scores, all replies scored together; their advantages are still 0.

    An internal failure masks a rollout: it must never look like a wrong answer.
    """
    samples = [_sample_of(prompt) for prompt in prompts.values()]
    items = [
        (rubric_of(sample.task), one, sample) for sample, group in zip(samples, replies, strict=True) for one in group
    ]
    scores = iter(score_all(items))
    return [
        Group(f"{name}-{i}", prompt, tuple(Rollout(one, next(scores)) for one in group))
        for (i, prompt), group in zip(prompts.items(), replies, strict=True)
    ]


def _sample_of(prompt: Prompt) -> Sample:
    if prompt.sample is None:
        raise ValueError(f"prompt {prompt.name}: got no sample; expected one, since its replies are scored")
    return prompt.sample


class RewardsFailed(ValueError):
    """Too many replies of a step could not be scored; the message has the reason."""


def check_failures(groups: Sequence[Group], limit: float) -> None:
    """RewardsFailed when more than a share `limit` of the replies is masked because a reward failed."""
    scores = [rollout.score for group in groups for rollout in group.rollouts]
    failed = [score.masked for score in scores if score.failed]
    if failed and len(failed) > limit * len(scores):
        raise RewardsFailed(
            f"rewards failed for {len(failed)} of {len(scores)} replies, more than rollout.max_failed_share {limit:g}; "
            f"the first: {failed[0]}. Fix it, or raise the share to train on the rest, and resume the run"
        )


def collect(
    engine: Engine,
    rubric_of: RubricOf,
    name: str,
    prompts: Sequence[Prompt] | Mapping[int, Prompt],
    *,
    sampling: Sampling,
    group_size: int,
    seed: int,
) -> list[Group]:
    """One group of `group_size` scored completions per prompt, in order; `name` is the prefix of the groups' ids.

    Ids and seeds follow from a prompt's number, which a mapping gives: with several processes each has only some of the
    prompts. Rewards run after all generation is done, so a slow reward never blocks a partly decoded batch.
    """
    numbered = prompts if isinstance(prompts, Mapping) else dict(enumerate(prompts))
    seeds = [derive_seed(seed, number) for number in numbered]
    replies = engine.generate(list(numbered.values()), sampling, group_size, seeds)
    return score_groups(name, numbered, replies, rubric_of)


def center(groups: Sequence[Group], advantages: Advantages, rubric_of: RubricOf | None = None) -> list[Group]:
    """The groups of a step with the advantage of each rollout; masked ones get 0 and are excluded. `rubric_of` gives
    the parts of each reward to advantages that normalize them one by one."""
    found = advantages([rewards_of(group, rubric_of) for group in groups])
    return [_with_credit(group, credit) for group, credit in zip(groups, found, strict=True)]


def rewards_of(group: Group, rubric_of: RubricOf | None = None) -> GroupRewards:
    """What advantages read of a group."""
    rollouts = group.rollouts
    penalties = [torch.tensor(r.kl_penalties, dtype=torch.float64) for r in rollouts]
    parts: dict[str, tuple[float, torch.Tensor]] = {}
    if rubric_of is not None:
        rubric = rubric_of(group.sample.task)
        shares = [rubric.shares(r.completion, r.score) for r in rollouts]
        for part in rubric.parts:
            if part.gate is None:
                values = [share.get(part.name, 0.0) for share in shares]
                parts[part.name] = part.weight, torch.tensor(values, dtype=torch.float64)
    return GroupRewards(
        rewards_G=torch.tensor([r.score.value for r in rollouts], dtype=torch.float64),
        mask_G=torch.tensor([r.score.masked is None for r in rollouts]),
        lengths_G=torch.tensor([float(r.completion.loss_tokens) for r in rollouts]),
        parts=parts,
        penalties=tuple(penalties) if any(map(len, penalties)) else None,
    )


def _with_credit(group: Group, credit: Credit) -> Group:
    if isinstance(credit, torch.Tensor):
        rollouts = [replace(r, advantage=one) for r, one in zip(group.rollouts, credit.tolist(), strict=True)]
        return replace(group, rollouts=tuple(rollouts))
    rollouts = [
        replace(r, advantage=float(one_T.mean()) if len(one_T) else 0.0, token_advantages=tuple(one_T.tolist()))
        for r, one_T in zip(group.rollouts, credit, strict=True)
    ]
    return replace(group, rollouts=tuple(rollouts))


def has_variance(group: Group) -> bool:
    """False when all unmasked rewards are equal: the group has no signal by itself."""
    return len(set(group.rewards)) > 1


@dataclass(frozen=True, slots=True)
class Collected:
    """The groups of one step."""

    groups: tuple[Group, ...]
    """Groups that the step trains on."""
    set_aside: tuple[Group, ...] = ()
    """Generated but replaced (dynamic sampling): recorded, but not in the update or its denominators."""
    rounds: int = 1
    """Number of calls to the engine."""

    @property
    def generated(self) -> tuple[Group, ...]:
        return self.groups + self.set_aside


def collect_step(collect_round: Callable[[int], Sequence[Group]], extra_rounds: int) -> Collected:
    """The groups of a step: one round, and with `extra_rounds` DAPO's dynamic sampling (arXiv:2503.14476, section 3.2).

    `collect_round(r)` returns the scored groups of round r. Without extra rounds all groups are kept: those with equal
    rewards have no gradient but count in metrics and denominators. With extra rounds, such groups are set aside and new
    prompts are drawn until the number of groups of round 0 is reached or the rounds are used up; the step may then have
    fewer groups.
    """
    kept: list[Group] = []
    aside: list[Group] = []
    needed, rounds = 0, 0
    for number in range(extra_rounds + 1):
        found = collect_round(number)
        needed, rounds = needed or len(found), number + 1
        for group in found:
            keep = extra_rounds == 0 or (has_variance(group) and len(kept) < needed)
            (kept if keep else aside).append(group)
        if len(kept) >= needed:
            break
    return Collected(tuple(kept), tuple(aside), rounds)
