"""Rewards for ms-swift's GRPO (3.x, 4.x), registered by an external plugin."""

from __future__ import annotations

from typing import Any

from saccade.bridges.trl import reward_funcs
from saccade.rewards import PartConfig


def orm(reward: str | PartConfig, **options: Any) -> type:
    """A class for ms-swift's table of rewards, whose objects are called with completions and columns.

    # my_plugin.py, given as --external_plugins my_plugin.py --reward_funcs saccade_rec_iou
    from swift.plugin import orms          # swift.rewards in newer versions
    from saccade.bridges.ms_swift import orm
    orms["saccade_rec_iou"] = orm("rec_iou", frame="thousand")

    Options and errors are those of `saccade.bridges.trl.reward_funcs`; a reply that cannot be scored gets None.
    """
    (function,) = reward_funcs(reward, **options)

    class Reward:
        __doc__ = f"Saccade's reward '{function.__name__}'."

        def __init__(self, args: Any = None, **_: Any) -> None:
            self.args = args

        def __call__(self, completions: Any, **columns: Any) -> list[float | None]:
            columns.pop("prompts", None)
            ids = columns.pop("completion_ids", columns.pop("response_token_ids", None))
            return function(completions=completions, completion_ids=ids, **columns)

    Reward.__name__ = Reward.__qualname__ = function.__name__
    return Reward
