"""Rewards for verl (`custom_reward_function`, 0.5 or newer): one reply per call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from saccade.bridges.weighted import Weighted

ComputeScore = Callable[..., dict[str, Any]]


def compute_score(rewards: Mapping[str, float], *, masked: float | None = None, **options: Any) -> ComputeScore:
    """The function that verl calls as `compute_score(data_source, solution_str, ground_truth, extra_info)`.

    # my_reward.py, given as custom_reward_function.path=my_reward.py custom_reward_function.name=compute_score
    from saccade.bridges import verl
    compute_score = verl.compute_score({"rec_iou": 0.9, "format": 0.1}, frame="thousand")

    `rewards` maps names to weights; `options` are those of `saccade.bridges.trl.reward_funcs`. Boxes need the image's
    size: `extra_info["image_size"]`, [width, height] in pixels. The result has `score`, their weighted sum, and the
    value of every part.

    verl has no word for a reply that cannot be scored, and an internal failure is not the model's answer: by default it
    raises RuntimeError; `masked` is the score to give instead.
    """
    weighted = Weighted.of(rewards, masked, options)

    def score(
        data_source: Any = None, solution_str: str = "", ground_truth: Any = None, extra_info: Any = None, **_: Any
    ) -> dict[str, Any]:
        row = {**(extra_info if isinstance(extra_info, Mapping) else {}), weighted.gold: ground_truth}
        total, parts = weighted.score(solution_str, row)
        return {"score": total, **parts}

    return score
