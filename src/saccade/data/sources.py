"""Sources: what a recipe's `data` entries open as, files or the visual world."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from saccade.config import Config
from saccade.data.readers import READERS, Reading
from saccade.types import Sample
from saccade.world.config import WorldConfig

WORLD = "world"
_OF_FILES = ("path", "image_folder", "on_bad")
_OF_WORLD = ("split", "seed", "world")


class DataConfig(Config):
    """One entry of a recipe's `data`."""

    source: str
    """A format of `saccade.data.READERS`, or 'world'."""
    name: str | None = None
    """What metrics call it; the file's stem or the world's split and task when null."""
    task: str | None = None
    """World: what is asked. Files: task of the rows, where the format leaves it open."""
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Share of the mixture, relative to the other entries."""
    limit: int | None = Field(default=None, ge=1)
    """The first samples only."""
    path: Path | None = None
    """The file or folder; required for files."""
    image_folder: Path | None = None
    """What image names are relative to; the folder of `path` when null."""
    on_bad: Literal["error", "skip"] = "error"
    """A row that is not right: stop before the run starts, or leave it out and count it."""
    split: str = "train"
    """Split of the world."""
    seed: int = 0
    """Seed of the world's items."""
    world: WorldConfig = WorldConfig()

    @model_validator(mode="after")
    def _keys_fit_the_source(self) -> DataConfig:
        if self.source != WORLD and self.source not in READERS:
            raise ValueError(f"source is {self.source!r}, expected one of {', '.join([*READERS, WORLD])}")
        needed = "task" if self.source == WORLD else "path"
        if getattr(self, needed) is None:
            raise ValueError(f"source {self.source!r} needs '{needed}'")
        for key in _OF_FILES if self.source == WORLD else _OF_WORLD:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"'{key}' means nothing to source {self.source!r}; leave it out")
        return self


@dataclass(frozen=True)
class Source:
    """A named row of samples, read by index; `size` None has no end."""

    name: str
    get: Callable[[int], Sample]
    size: int | None
    skipped: int = 0
    """Rows left out because they were not right."""

    def __len__(self) -> int:
        if self.size is None:
            raise TypeError(f"source '{self.name}' has no end; give it a 'limit'")
        return self.size

    def __getitem__(self, index: int) -> Sample:
        """The sample at a non-negative index; its meta says which source it came from."""
        if index < 0 or (self.size is not None and index >= self.size):
            raise IndexError(f"source '{self.name}' has no sample {index}")
        sample = self.get(index)
        return replace(sample, meta={**sample.meta, "source": self.name})

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


def open_source(cfg: DataConfig) -> Source:
    """Opens an entry: reads the rows of files and the header of each image, so that what is wrong shows before any long
    work. Raises ValueError with file and line."""
    return _open_world(cfg) if cfg.source == WORLD else _open_files(cfg)


def _open_files(cfg: DataConfig) -> Source:
    assert cfg.path is not None  # DataConfig saw to it
    folder = cfg.image_folder or (cfg.path if cfg.path.is_dir() else cfg.path.parent)
    rows = READERS[cfg.source](Reading(cfg.path, folder, cfg.task, skip_bad=cfg.on_bad == "skip"))
    samples = rows.samples[: cfg.limit]
    return Source(cfg.name or cfg.path.stem, samples.__getitem__, len(samples), rows.skipped)


def _open_world(cfg: DataConfig) -> Source:
    from saccade.world import World  # the world writes data sets, so it knows this room

    assert cfg.task is not None  # DataConfig saw to it
    world, task = World(cfg.world), cfg.task
    world.item(cfg.seed, 0, task, cfg.split)  # a wrong task or split is said now
    name = cfg.name or f"world/{cfg.split}/{task}"
    return Source(name, lambda index: world.item(cfg.seed, index, task, cfg.split).sample, cfg.limit)
