"""One entry of a recipe's `data`. Loads no reader, no torch and no numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from saccade.config import Config
from saccade.data.formats import BOXES, READERS, TABLES
from saccade.data.images import MAX_PIXELS
from saccade.data.pass_rates import PassRateConfig
from saccade.world.config import WorldConfig

WORLD = "world"
OnBad = Literal["error", "skip"]
Label = Literal["easy", "mixed", "hard"]
"""How often the reasoner of a cold start was right: always, at times, never (`meta.cold_start`)."""
_READ_BY: dict[str, tuple[str, ...]] = {
    "path": tuple(READERS),
    "hub": TABLES,
    "image_folder": tuple(READERS),
    "on_bad": tuple(READERS),
    "data_root": tuple(READERS),
    "allow_outside": tuple(READERS),
    "max_image_pixels": tuple(READERS),
    "negatives": BOXES,
    "labels": BOXES,
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
    """The first samples only; a `pass_rate` chooses among them."""
    path: Path | None = None
    """The file, folder or pattern (train-*.parquet); required for files."""
    hub: str | None = None
    """Instead of `path`: the name of a data set on the Hugging Face hub, owner/name."""
    image_folder: Path | None = None
    """What image names are relative to; the folder of `path` when null."""
    on_bad: OnBad = "error"
    """An unusable row: stop before the run starts where that can be known, or skip and count it."""
    data_root: Path | None = None
    """The folder that all image files must be in. Null: the folder of `path`, `image_folder`, the cache of the hub and
    the sources that our own `convert` or cold start recorded."""
    allow_outside: bool = False
    """Rows may name image files anywhere on this machine."""
    max_image_pixels: int = Field(default=MAX_PIXELS, ge=1)
    """Maximum width * height of an image; a larger one makes its row unusable."""
    split: str | None = None
    """Split of the world or of a Hugging Face data set; 'train' when null."""
    columns: dict[str, str | list[str]] = Field(default_factory=dict)
    """Source `table`: what a column is (image, question, answer, answer_index, options, id, task, system, response) ->
    its name."""
    negatives: int = Field(default=3, ge=0)
    """Boxes (coco, voc, yolo): the most absent labels requested per image (at least one, unless 0)."""
    labels: tuple[str, ...] = ()
    """Boxes (coco, voc, yolo): only these labels are asked for; all when empty."""
    seed: int = 0
    """Seed of the world's items; of images with boxes, that of the absent labels and of the numbers of `more_than`."""
    world: WorldConfig = WorldConfig()
    cold_start: tuple[Label, ...] | None = Field(default=None, min_length=1)
    """Prompts of a cold start: only those with these labels; all when null."""

    pass_rate: PassRateConfig | None = None
    """Only the rows that a model answers right about as often as this says; all when null."""

    @property
    def title(self) -> str:
        """What metrics call it."""
        if self.source == WORLD:
            return self.name or f"world/{self.split or 'train'}/{self.task}"
        return self.name or (self.path.stem if self.path else str(self.hub))

    @model_validator(mode="after")
    def _keys_fit_the_source(self) -> DataConfig:
        if self.source != WORLD and self.source not in READERS:
            raise ValueError(f"source is {self.source!r}, expected one of {', '.join([*READERS, WORLD])}")
        for key, sources in _READ_BY.items():
            if self.source not in sources and getattr(self, key) != type(self).model_fields[key].get_default(
                call_default_factory=True
            ):
                raise ValueError(f"'{key}' is not an option of source {self.source!r}; remove it")
        if self.data_root is not None and self.allow_outside:
            raise ValueError("data_root: has no effect with allow_outside: true; remove one of them")
        if self.columns:
            from saccade.data.tables import check_columns

            check_columns(self.columns)
        if self.source == WORLD and self.task is None:
            raise ValueError("source 'world' needs 'task'")
        if self.source != WORLD and (self.path is None) == (self.hub is None):
            both = "either 'path' or 'hub', not both" if self.path else "'path'"
            raise ValueError(f"source {self.source!r} needs {both}")
        return self
