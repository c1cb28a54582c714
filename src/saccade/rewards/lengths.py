"""The reward that weights an answer by its length."""

from __future__ import annotations

import math
from collections.abc import Callable

from saccade.rewards.wrapping import wrap_reward
from saccade.types import Completion, Sample, Score


def cosine_of(
    accuracy: Callable[[Completion, Sample], Score], max_length: int, right_floor: float, wrong_ceiling: float
) -> Callable[[Completion, Sample], Score]:
    """The cosine length reward over an accuracy; `saccade.rewards.table.cosine_length` documents it."""

    def cosine(completion: Completion, sample: Sample, answer: Score) -> Score:
        if answer.masked:
            return answer
        length = len(completion.token_ids)
        left = (1 + math.cos(math.pi * min(length / max_length, 1.0))) / 2
        if answer.value >= 1.0:
            value = right_floor + (1.0 - right_floor) * left
            return Score(value, None if value == 1.0 else f"{length} tokens")
        value = 0.0 if length >= max_length or completion.truncated else wrong_ceiling * (1.0 - left)
        return Score(value, answer.reason or "wrong")

    return wrap_reward(accuracy, lambda completion, sample: None, cosine)


def check_cosine(right_floor: float, wrong_ceiling: float) -> None:
    """ValueError when some wrong reply could score as high as a right one."""
    if not wrong_ceiling < right_floor:
        raise ValueError(
            f"cosine_length: got right_floor {right_floor:g} and wrong_ceiling {wrong_ceiling:g}; expected "
            "wrong_ceiling < right_floor, so that a right answer is always worth more than a wrong one"
        )
