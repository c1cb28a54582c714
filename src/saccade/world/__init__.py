"""A procedural visual world with exact ground truth: scenes, questions, chains of thought, an independent checker.

Names are imported on first use: a recipe needs only the config.
"""

from typing import TYPE_CHECKING

from saccade.lazy import first_use

if TYPE_CHECKING:
    from saccade.world.chains import FIRST_WORDS, HABITS
    from saccade.world.config import WorldConfig
    from saccade.world.draw import render
    from saccade.world.generator import World, WorldItem
    from saccade.world.question import Question
    from saccade.world.scene import Scene, Thing
    from saccade.world.splits import SPLITS

__all__ = [
    "FIRST_WORDS",
    "HABITS",
    "SPLITS",
    "Question",
    "Scene",
    "Thing",
    "World",
    "WorldConfig",
    "WorldItem",
    "render",
]

_PLACES = {
    "FIRST_WORDS": "chains",
    "HABITS": "chains",
    "SPLITS": "splits",
    "Question": "question",
    "Scene": "scene",
    "Thing": "scene",
    "World": "generator",
    "WorldConfig": "config",
    "WorldItem": "generator",
    "render": "draw",
}

__getattr__ = first_use(__name__, _PLACES)
