"""The types of a benchmark: how it is loaded, prompted, graded and aggregated. A benchmark is one value of
`Benchmark`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from saccade.data.records import Reading
from saccade.data.roots import roots_in
from saccade.types import Box, Frame, Sample

UNVERIFIED = "no official script was run beside it: the rules were written from descriptions of the protocol"
"""Why no mode here claims to equal its original."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a benchmark's rows are."""

    data: Path | None
    """A file or folder; None reads the hub."""
    subset: str | None = None
    """One of the benchmark's subsets; its default when None."""
    images: Path | None = None
    """What image names are relative to; the data file's folder when None."""
    format: str | None = None
    """`jsonl` only: a name of `saccade.data.READERS`."""
    limit: int | None = None
    """Maximum number of rows: a loader that generates its questions may stop there."""
    data_root: Path | None = None
    """The folder that all image files must be in."""

    def reading(self, file: Path, folder: Path | None = None, hub: bool = False, split: str | None = None) -> Reading:
        """A file of it for a reader. Its images are in `images`, else in `folder` (the file's by default), and may be
        anywhere in `data` or `data_root`, but nowhere else: rows name them, and a server is sent them."""
        if hub:
            return Reading(file, file, hub=True, split=split, roots=roots_in((), self.data_root))
        base = self.images or folder or (file if file.is_dir() else file.parent)
        data = [] if self.data is None else [self.data if self.data.is_dir() else self.data.parent]
        return Reading(file, base, split=split, roots=roots_in((base, *data), self.data_root))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A wording. `write` gives the user turn with an `<image>` marker per image."""

    id: str
    """Name and version, kept with every item."""
    write: Callable[[Sample], str]


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """A reply as protocols read it."""

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
    """A protocol's grade of a reply."""

    right: bool | None
    """None when the gold itself cannot be graded; such an item is not counted."""
    route: str
    """How the answer was found and judged, for counting: 'letter', 'boxed', 'judge: extraction'."""
    extracted: str | None = None
    detail: str = ""
    value: float | None = None
    """The soft measure behind the verdict: IoU, F1."""
    boxes: tuple[tuple[Box, str], ...] = ()
    """(xyxy in pixels of the original image, label) of what was answered."""
    needs_judge: bool = False
    """The protocol requires a judge here and there is none: counted as wrong and reported."""
    judged: tuple[str, ...] = ()
    """What the judge replied, in order."""


class BenchmarkJudge(Protocol):
    """Another model that extracts or scores. A failed request raises `JudgeUnavailable`."""

    id: str

    def ask(self, prompt: str, temperature: float = 0.0) -> str: ...


class JudgeError(RuntimeError):
    """The judge gave no usable reply."""


class JudgeUnavailable(Exception):
    """The judge did not answer, which says nothing of the reply: protocols let it pass."""


BenchmarkGrader = Callable[[ParsedReply, Sample, BenchmarkJudge | None], Grade]


@dataclass(frozen=True, slots=True)
class Mode:
    """A named way to grade: the official protocol, another project's, or rules only."""

    name: str
    source: str
    """Whose protocol it is."""
    rules: tuple[str, ...]
    """In the order in which they apply."""
    grade: BenchmarkGrader
    deviations: tuple[str, ...] = ()
    """Where it differs from its source, and why."""
    judge: bool = False
    """Some of its items need a judge."""
    select: Callable[[list[Sample]], list[Sample]] | None = None
    """The items that the protocol uses, when not all."""
    verified: bool = False
    reason: str = UNVERIFIED


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """An item with its grades, as scores use it."""

    id: str
    slices: Mapping[str, Any]
    """Dimension -> the item's value in it, or a list of values."""
    group: str
    """Items that are not independent share it: versions of one problem, questions about one image."""
    values: tuple[float, ...]
    """Per attempt: 1 right, 0 wrong."""
    soft: float | None = None
    """The first attempt's soft measure."""
    boxes: tuple[tuple[Box, str], ...] = ()
    gold: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)


OutcomeGroup = Sequence[ItemOutcome]
"""Outcomes that depend on each other; a bootstrap resamples them together."""
Statistic = Callable[[Sequence[OutcomeGroup]], float | None]
"""A number of some groups; None when they do not give one."""


@dataclass(frozen=True, slots=True)
class BenchmarkScore:
    """A figure of the benchmark other than accuracies of slices."""

    name: str
    of: Statistic
    scale: str = "fraction"
    """fraction (0..1) or points."""
    most: int | None = None
    """With more items than this there is no interval: it would take too long."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A complete benchmark. Its first prompt, subset and mode are the defaults."""

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
    """The benchmark's main score."""
    slices: tuple[str, ...] = ()
    scores: tuple[BenchmarkScore, ...] = ()
    subsets: tuple[str, ...] = ("all",)
    notes: tuple[str, ...] = ()
    """Notes on interpreting its scores."""
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
