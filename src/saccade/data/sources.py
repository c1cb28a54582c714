"""Sources: what a recipe's `data` entries open as, files or the visual world."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, model_validator

from saccade.config import Config
from saccade.data.pass_rates import PassRateConfig, with_rates
from saccade.data.readers import BOXES, READERS, TABLES
from saccade.data.records import Item, Reading
from saccade.data.tables import check_columns
from saccade.types import Sample
from saccade.world.config import WorldConfig

WORLD = "world"
Label = Literal["easy", "mixed", "hard"]
"""How often the reasoner of a cold start was right: always, at times, never (`meta.cold_start`)."""
_READ_BY: dict[str, tuple[str, ...]] = {
    "path": tuple(READERS),
    "hub": TABLES,
    "image_folder": tuple(READERS),
    "on_bad": tuple(READERS),
    "negatives": BOXES,
    "split": (WORLD, "voc", "yolo", *TABLES),
    "seed": (WORLD, *BOXES),
    "columns": ("table",),
    "pass_rate": tuple(READERS),
    "world": (WORLD,),
    "cold_start": ("saccade",),
}
"""Keys that not every source reads -> the sources that do. A table instead of a union: a new format is one line in
`READERS`."""


class DataConfig(Config):
    """One entry of a recipe's `data`."""

    source: str
    """A format of `saccade.data.READERS`, or 'world'."""
    name: str | None = None
    """What metrics call it; the file's stem or the world's split and task when null."""
    task: str | None = None
    """World: the task of its questions. Files: task of the rows, where the format does not determine it."""
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Share of the mixture, relative to the other entries."""
    limit: int | None = Field(default=None, ge=1)
    """The first samples only."""
    path: Path | None = None
    """The file, folder or pattern (train-*.parquet); required for files."""
    hub: str | None = None
    """Instead of `path`: the name of a data set on the Hugging Face hub, owner/name."""
    image_folder: Path | None = None
    """What image names are relative to; the folder of `path` when null."""
    on_bad: Literal["error", "skip"] = "error"
    """An invalid row: stop before the run starts, or skip and count it."""
    split: str | None = None
    """Split of the world or of a Hugging Face data set; 'train' when null."""
    columns: dict[str, str | list[str]] = Field(default_factory=dict)
    """Source `table`: what a column is (image, question, answer, options, id, task, system, response) -> its name."""
    negatives: int = Field(default=3, ge=0)
    """Boxes (coco, voc, yolo): the most absent labels requested per image (at least one, unless 0)."""
    seed: int = 0
    """Seed of the world's items, or of the absent labels of images with boxes."""
    world: WorldConfig = WorldConfig()
    cold_start: tuple[Label, ...] | None = Field(default=None, min_length=1)
    """Prompts of a cold start: only those with these labels; all when null."""

    pass_rate: PassRateConfig | None = None
    """Only the rows that a model answers right about as often as this says; all when null."""

    @model_validator(mode="after")
    def _keys_fit_the_source(self) -> DataConfig:
        if self.source != WORLD and self.source not in READERS:
            raise ValueError(f"source is {self.source!r}, expected one of {', '.join([*READERS, WORLD])}")
        for key, sources in _READ_BY.items():
            if self.source not in sources and getattr(self, key) != type(self).model_fields[key].get_default(
                call_default_factory=True
            ):
                raise ValueError(f"'{key}' is not an option of source {self.source!r}; remove it")
        check_columns(self.columns)
        if self.source == WORLD and self.task is None:
            raise ValueError("source 'world' needs 'task'")
        if self.source != WORLD and (self.path is None) == (self.hub is None):
            both = "either 'path' or 'hub', not both" if self.path else "'path'"
            raise ValueError(f"source {self.source!r} needs {both}")
        return self


@dataclass(frozen=True)
class Source:
    """A named sequence of samples, read by index; `size` None is infinite."""

    name: str
    get: Callable[[int], Sample]
    size: int | None
    skipped: int = 0
    """Invalid rows that were skipped."""

    def __len__(self) -> int:
        if self.size is None:
            raise TypeError(f"source '{self.name}' has no end; give it a 'limit'")
        return self.size

    def __getitem__(self, index: int) -> Sample:
        """The sample at a non-negative index; its meta names its source."""
        if index < 0 or (self.size is not None and index >= self.size):
            raise IndexError(f"source '{self.name}' has no sample {index}")
        sample = self.get(index)
        return replace(sample, meta={**sample.meta, "source": self.name})

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


def open_source(cfg: DataConfig) -> Source:
    """Opens an entry: reads the rows of files and the header of each image, so that errors show before any long
    work. Raises ValueError with file and line."""
    return _open_world(cfg) if cfg.source == WORLD else _open_files(cfg)


def items(cfg: DataConfig) -> Iterator[Item]:
    """The samples of an entry one by one with their places, and a ValueError in place of each invalid row;
    nothing is kept. Raises ValueError when nothing can be read at all, or the world has no limit."""
    if cfg.source == WORLD:
        source = _open_world(cfg)
        return ((f"{source.name}:{number}", sample) for number, sample in enumerate(source, 1))
    found = READERS[cfg.source](_reading(cfg))
    if cfg.cold_start is not None:
        found = _labelled(found, cfg.cold_start)
    if cfg.pass_rate is not None:
        found = with_rates(found, cfg.pass_rate)
    return found if cfg.limit is None else _first(found, cfg.limit)


def _labelled(found: Iterator[Item], wanted: Collection[Label]) -> Iterator[Item]:
    """The samples with these labels, and a ValueError in place of each that has none."""
    for place, item in found:
        label = None if isinstance(item, ValueError) else item.meta.get("cold_start")
        if isinstance(item, ValueError):
            yield place, item
        elif label not in get_args(Label):
            expected = f"expected {', '.join(get_args(Label))}, as the files rl_*.jsonl of a cold start have it"
            yield place, ValueError(f"meta.cold_start is {reprlib.repr(label)}, {expected}; or remove 'cold_start'")
        elif label in wanted:
            yield place, item


def _first(found: Iterator[Item], limit: int) -> Iterator[Item]:
    """Up to `limit` samples; invalid rows do not count."""
    for item in found:
        yield item
        limit -= not isinstance(item[1], ValueError)
        if not limit:
            return


def _reading(cfg: DataConfig) -> Reading:
    path = cfg.path or Path(cfg.hub or "")
    folder = cfg.image_folder or (path if path.is_dir() else path.parent)
    hub = cfg.hub is not None
    return Reading(path, folder, cfg.task, hub, cfg.split, cfg.negatives, cfg.seed, cfg.columns)


def _open_files(cfg: DataConfig) -> Source:
    samples: list[Sample] = []
    skipped = 0
    for place, found in items(cfg):
        if isinstance(found, Sample):
            samples.append(found)
        elif cfg.on_bad == "skip":
            skipped += 1
        else:
            raise ValueError(f"{place}: {found}") from found
    if not samples:
        labels = f" with cold_start {' or '.join(cfg.cold_start)}" if cfg.cold_start else ""
        rates = f" with a pass rate in {cfg.pass_rate.low:g}..{cfg.pass_rate.high:g}" if cfg.pass_rate else ""
        raise ValueError(f"{cfg.path or cfg.hub}: no usable row{labels}{rates} ({skipped} skipped)")
    name = cfg.name or (cfg.path.stem if cfg.path else str(cfg.hub))
    return Source(name, samples.__getitem__, len(samples), skipped)


def _open_world(cfg: DataConfig) -> Source:
    from saccade.world import World  # loaded only for sources of the world

    assert cfg.task is not None  # DataConfig checks it
    world, task, split = World(cfg.world), cfg.task, cfg.split or "train"
    world.item(cfg.seed, 0, task, split)  # a wrong task or split is reported now
    name = cfg.name or f"world/{split}/{task}"
    return Source(name, lambda index: world.item(cfg.seed, index, task, split).sample, cfg.limit)
