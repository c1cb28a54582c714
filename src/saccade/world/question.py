"""A question about a scene: its text, its answer, its target objects, and the steps for writing chains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from saccade.types import Box
from saccade.world.config import WorldConfig
from saccade.world.scene import Bar, Scene, Thing
from saccade.world.splits import Split


@dataclass(frozen=True, slots=True)
class What:
    """A description of objects by attribute; an empty attribute matches anything."""

    color: str = ""
    shape: str = ""
    size: str = ""

    def matches(self, thing: Thing) -> bool:
        """True when the object has every given attribute."""
        return (
            (not self.color or self.color == thing.color)
            and (not self.shape or self.shape == thing.shape)
            and (not self.size or self.size == thing.size)
        )

    def among(self, things: Iterable[Thing]) -> tuple[Thing, ...]:
        """The matching objects, in order."""
        return tuple([thing for thing in things if self.matches(thing)])

    @property
    def form(self) -> str:
        """The attributes it uses: 'color', 'color shape', 'shape size'; 'object' when none."""
        named = (("color", self.color), ("shape", self.shape), ("size", self.size))
        return " ".join(name for name, value in named if value) or "object"

    @property
    def one(self) -> str:
        """In the singular: 'large red circle', 'blue object'."""
        return " ".join(word for word in (self.size, self.color, self.shape or "object") if word)

    @property
    def many(self) -> str:
        """In the plural: 'large red circles', 'crosses'."""
        return self.one + ("es" if self.shape == "cross" else "s")

    @property
    def short(self) -> str:
        """The shortest name: 'red', 'star', 'red star'."""
        return " ".join(word for word in (self.size, self.color, self.shape) if word) or "object"


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of a derivation: entries under an optional title, 'red: a1 1, b2 2'; no entries reads 'none'."""

    entries: tuple[str, ...]
    title: str = ""

    @property
    def text(self) -> str:
        """The step as text, without a period."""
        listed = ", ".join(self.entries) or "none"
        return f"{self.title}: {listed}" if self.title else listed


@dataclass(frozen=True, slots=True)
class Question:
    """`answer` has the format of `Sample.answer` for its task; `targets` are in reading order."""

    task: str
    text: str
    answer: Any
    targets: tuple[Thing | Bar, ...]
    steps: tuple[Step, ...]
    query: Any = field(repr=False)
    """The machine-readable question; it can be evaluated on another scene."""
    scene: Scene = field(repr=False)
    options: tuple[str, ...] = ()
    level: str = ""
    """The kind of question within its task: 'relation', 'sum', 'area'."""
    meta: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class TaskKind:
    """How a task proposes, answers and balances its questions. A new task is one of these and its line in `KINDS`."""

    scenes: tuple[str, ...]
    """Supported scene kinds."""
    propose: Callable[[Scene, Random, WorldConfig, Split], list[Any]]
    """Candidate queries for a scene."""
    ask: Callable[[Any, Scene], Question | None]
    """The question with its answer; None when the query has no single answer in this scene."""
    draw_class: Callable[[Random, WorldConfig, Split], Any]
    """Draws the answer class of an item, before its scene."""
    class_of: Callable[[Question], Any]


def with_article(noun: str) -> str:
    """'an orange star', 'a red circle'."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def integer_box(box: Box) -> list[int]:
    """A box in the format of a gold answer."""
    return [round(v) for v in box]
