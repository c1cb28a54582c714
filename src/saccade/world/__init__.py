"""A procedural visual world with exact ground truth: scenes, questions, chains of thought, an independent checker.

Names are imported on first use: a recipe needs only the config.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
_MODULES = {
    "FIRST_WORDS": "chains",
    "HABITS": "chains",
    "Question": "question",
    "SPLITS": "splits",
    "Scene": "scene",
    "Thing": "scene",
    "WorldConfig": "config",
    "render": "draw",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'generator')}"), name)
