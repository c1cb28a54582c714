"""The nouns of a benchmark: how it is read, put, graded and added up. A benchmark is one value of `Benchmark`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from saccade.types import Box, Frame, Sample

UNVERIFIED = "no official script was run beside it: the rules were written from descriptions of the protocol"
"""Why no mode here claims to equal its original."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a benchmark's rows are to be found."""

    data: Path | None
    """A file or folder; None asks the hub."""
    subset: str | None = None
    """One of the benchmark's subsets; its default when None."""
    images: Path | None = None
    """What image names are relative to; the data file's folder when None."""
    format: str | None = None
    """`jsonl` only: a name of `saccade.data.READERS`."""
    limit: int | None = None
    """Rows that will be asked at most: a loader that makes its questions as it goes may stop there."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A wording. `write` gives the user's turn with an `<image>` marker per image."""

    id: str
    """Name and version, kept with every item."""
    write: Callable[[Sample], str]


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """What a protocol sees of a reply."""

    text: str
    """The whole reply."""
    final_text: str | None
    """Without thought: the inside of the last answer block, else all that follows the thought; None when the reply ends
    inside its thought."""
    frames: tuple[Frame, ...] = ()
    how: str = "whole reply"
    """Where `final_text` was found: answer block, after thought, whole reply."""


@dataclass(frozen=True, slots=True)
class Grade:
    """What a protocol says of a reply."""

    right: bool | None
    """None when the gold itself cannot be graded; such an item counts nowhere."""
    route: str
    """How the answer was found and judged, to be counted: 'letter', 'boxed', 'judge: extraction'."""
    extracted: str | None = None
    detail: str = ""
    value: float | None = None
    """The soft measure behind the verdict: IoU, F1."""
    boxes: tuple[tuple[Box, str], ...] = ()
    """(xyxy in pixels of the original image, label) of what was answered."""
    needs_judge: bool = False
    """The protocol needs a judge here and none is configured: counted as wrong and reported."""
    judged: tuple[str, ...] = ()
    """What the judge replied, in order."""


class BenchmarkJudge(Protocol):
    """Another model that extracts or scores. A reply that cannot be had raises `JudgeError`."""

    id: str

    def ask(self, prompt: str, temperature: float = 0.0) -> str: ...


class JudgeError(RuntimeError):
    """The judge could not be asked."""


BenchmarkGrader = Callable[[ParsedReply, Sample, BenchmarkJudge | None], Grade]


@dataclass(frozen=True, slots=True)
class Mode:
    """A named way to grade: the official protocol, another project's, or rules alone."""

    name: str
    source: str
    """Whose protocol it is."""
    rules: tuple[str, ...]
    """In the order in which they apply."""
    grade: BenchmarkGrader
    deviations: tuple[str, ...] = ()
    """Where it differs from its source, and why."""
    judge: bool = False
    """Some of its items want a judge."""
    select: Callable[[list[Sample]], list[Sample]] | None = None
    """The items that the protocol asks, when not all in order."""
    verified: bool = False
    reason: str = UNVERIFIED


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """An item with its grades, as scores see it."""

    id: str
    slices: Mapping[str, Any]
    """Dimension -> the item's value in it, or a list of values."""
    group: str
    """Items that are not independent share it: versions of one problem, questions about one image."""
    values: tuple[float, ...]
    """Per attempt: 1 right, 0 not."""
    soft: float | None = None
    """The first attempt's soft measure."""
    boxes: tuple[tuple[Box, str], ...] = ()
    gold: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)


OutcomeGroup = Sequence[ItemOutcome]
"""Outcomes that depend on each other; a bootstrap draws them together, perhaps several times."""
Statistic = Callable[[Sequence[OutcomeGroup]], float | None]
"""A number of some groups; None when they do not give one."""


@dataclass(frozen=True, slots=True)
class BenchmarkScore:
    """A figure of the benchmark besides accuracies of slices."""

    name: str
    of: Statistic
    scale: str = "fraction"
    """fraction (0..1) or points."""
    most: int | None = None
    """More items than these get no interval: it would take too long."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Everything there is to know of a benchmark. Its first prompt, subset and mode are the defaults."""

    name: str
    title: str
    layout: str
    """The files that are expected, for people."""
    load: Callable[[Place], list[Sample]]
    """Samples whose meta holds `slices` and, where items depend on each other, `group`. ValueError with file and
    line."""
    prompts: Mapping[str, Prompt]
    modes: Mapping[str, Mode]
    headline: BenchmarkScore
    """What the benchmark's one number is."""
    slices: tuple[str, ...] = ()
    scores: tuple[BenchmarkScore, ...] = ()
    subsets: tuple[str, ...] = ("all",)
    notes: tuple[str, ...] = ()
    """What a reader of its numbers must know."""
    needs_data: bool = True

    def mode(self, name: str | None) -> Mode:
        return _named(self.modes, name, f"benchmark '{self.name}' has no mode")

    def prompt(self, name: str | None) -> Prompt:
        return _named(self.prompts, name, f"benchmark '{self.name}' has no prompt")

    def subset(self, name: str | None) -> str:
        return _named({one: one for one in self.subsets}, name, f"benchmark '{self.name}' has no subset")


def _named(table: Mapping[str, Any], name: str | None, what: str) -> Any:
    """The entry of that name, the first without one. ValueError."""
    if name is None:
        return next(iter(table.values()))
    if name not in table:
        raise ValueError(f"{what} {name!r}; expected one of {', '.join(table)}")
    return table[name]


def slice_values(slices: Mapping[str, Any], dimension: str) -> tuple[str, ...]:
    """The item's values in a dimension, as texts; () when it has none."""
    value = slices.get(dimension)
    if value is None:
        return ()
    return tuple(str(one) for one in value) if isinstance(value, list | tuple) else (str(value),)
