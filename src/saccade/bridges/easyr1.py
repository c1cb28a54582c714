"""Rewards for EasyR1 (`worker.reward.reward_function`, reward type batch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from saccade.bridges.weighted import Weighted

ComputeScores = Callable[..., list[dict[str, float]]]


def compute_scores(rewards: Mapping[str, float], *, masked: float | None = None, **options: Any) -> ComputeScores:
    """The function that EasyR1 calls with a list of {"response", "ground_truth", ...}; a dictionary per reply.

    # my_reward.py, given as worker.reward.reward_function=my_reward.py:compute_score
    REWARD_NAME, REWARD_TYPE = "saccade", "batch"
    from saccade.bridges import easyr1
    compute_score = easyr1.compute_scores({"math": 0.9, "format": 0.1})

    As `saccade.bridges.verl.compute_score`, with `overall` for the weighted sum. Boxes need an `image_size` in each
    input, [width, height] in pixels.
    """
    weighted = Weighted.of(rewards, masked, options)

    def scores(reward_inputs: Sequence[Mapping[str, Any]], **_: Any) -> list[dict[str, float]]:
        found = []
        for one in reward_inputs:
            row = {**one, weighted.gold: one.get("ground_truth")}
            total, parts = weighted.score(str(one["response"]), row)
            found.append({"overall": total, **parts})
        return found

    return scores
