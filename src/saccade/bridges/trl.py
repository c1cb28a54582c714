"""Rewards for TRL's GRPOTrainer and RLOOTrainer (1.x), and for trainers that call reward functions the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from saccade.bridges.scorer import Scorer, text_of
from saccade.rewards import PartConfig

RewardFunc = Callable[..., list[float | None]]
"""`f(prompts, completions, completion_ids, **columns)`: a reward per completion, None where it cannot be scored."""


def reward_funcs(*rewards: str | PartConfig, **options: Any) -> list[RewardFunc]:
    """One function per reward, in order; TRL weights them by `reward_weights`.

    trainer = GRPOTrainer(model, reward_funcs=reward_funcs("detection_od_length", "format", processor=processor), ...)

    `rewards` are names of `saccade.rewards.REWARDS` or `PENALTIES`, or `PartConfig(name=..., options=...)`. Options:
    `processor` (or `frame`) for rewards of boxes; `gold`, the column of the gold (default: solution, answer,
    ground_truth or label); `opening`, text that the template writes before the reply, such as "<think>"; `task`, how to
    read the gold. Gold boxes are xyxy in pixels of the original image, which is in the column images or image.

    A reply that cannot be scored gets None, which TRL leaves out of the group's baseline. Raises ValueError for a wrong
    name or option, at the first call for a row without its gold.
    """
    if not rewards:
        raise ValueError('got no reward, expected at least one name, such as reward_funcs("rec_iou", "format")')
    return [_function(Scorer.of(reward, **options)) for reward in rewards]


def _function(scorer: Scorer) -> RewardFunc:
    def reward(
        prompts: Sequence[Any] = (),
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        scores: list[float | None] = []
        rows = {key: values for key, values in columns.items() if _is_column(values, len(completions))}
        for i, completion in enumerate(completions):
            row = {key: values[i] for key, values in rows.items()}
            if len(prompts) == len(completions):
                row.setdefault("prompt", prompts[i])
            score = scorer.score(text_of(completion), row, completion_ids[i] if completion_ids else ())
            scores.append(None if score.masked is not None else score.value)
        return scores

    reward.__name__ = reward.__qualname__ = scorer.name.rpartition(":")[2].replace("/", "_")
    return reward


def _is_column(values: Any, count: int) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and len(values) == count
