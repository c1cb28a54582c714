"""A procedural visual world with exact ground truth: scenes, questions, chains of thought, an independent checker."""

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
