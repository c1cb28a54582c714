"""Rewards in [0, 1], penalties in [-1, 0], and the rubric that weighs them."""

from __future__ import annotations

from saccade.rewards.rubric import Part, PartConfig, Rubric, RubricConfig
from saccade.rewards.table import PENALTIES, REWARDS, Reward

__all__ = ["PENALTIES", "REWARDS", "Part", "PartConfig", "Reward", "Rubric", "RubricConfig"]
