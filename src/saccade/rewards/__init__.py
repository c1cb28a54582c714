"""Rewards in [0, 1], penalties in [-1, 0], and the rubric that weights them."""

from __future__ import annotations

from saccade.rewards.row_reward import check_row, row_reward
from saccade.rewards.rubric import Part, PartConfig, Rubric, RubricConfig
from saccade.rewards.scoring import score_all
from saccade.rewards.table import ALIASES, PENALTIES, REWARDS, Reward

__all__ = [
    "ALIASES",
    "PENALTIES",
    "REWARDS",
    "Part",
    "PartConfig",
    "Reward",
    "Rubric",
    "RubricConfig",
    "check_row",
    "row_reward",
    "score_all",
]
