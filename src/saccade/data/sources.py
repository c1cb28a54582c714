"""Sources: what a recipe's `data` entries open as, files or the visual world."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

from saccade.data.config import WORLD, DataConfig, Label, OnBad
from saccade.data.formats import reader
from saccade.data.kept import Kept
from saccade.data.pass_rates import with_rates
from saccade.data.records import Item, Reading, shown
from saccade.data.roots import record, roots_in
from saccade.faults import LONGEST_REASON, cut, on_a_line
from saccade.rewards import check_row
from saccade.tasks import TASKS
from saccade.types import Sample


@dataclass(frozen=True)
class Source:
    """A named sequence of samples, read by index; `size` None is infinite."""

    name: str
    get: Callable[[int], Sample]
    size: int | None
    skipped: int = 0
    """Unusable rows that were skipped when it was opened."""
    on_bad: OnBad = "error"
    """Whether a sample that proves unusable later is skipped too."""
    first_skipped: str = ""
    """The first of them, with its place."""
    unusable: frozenset[int] = frozenset()
    """Indices of samples that the model cannot read; a mixture skips them."""

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
    return open_sources([cfg])[0]


def open_sources(entries: Sequence[DataConfig]) -> list[Source]:
    """As `open_source`, for all entries of a recipe, which share the memory that odd ones may take."""
    kept = Kept()
    return [_open_world(cfg) if cfg.source == WORLD else _open_files(cfg, kept) for cfg in entries]


def items(cfg: DataConfig) -> Iterator[Item]:
    """The samples of an entry one by one with their places, and a ValueError in place of each invalid row;
    nothing is kept. Raises ValueError when nothing can be read at all, or the world has no limit."""
    if cfg.source == WORLD:
        source = _open_world(cfg)
        return ((f"{source.name}:{number}", sample) for number, sample in enumerate(source, 1))
    found = reader(cfg.source)(reading_of(cfg))
    if cfg.cold_start is not None:
        found = _labelled(found, cfg.cold_start)
    if cfg.limit is not None:
        found = _first(found, cfg.limit)
    if cfg.pass_rate is not None:  # of the rows that 'saccade data passrate' asks
        found = with_rates(found, cfg.pass_rate)
    return _brief(found)


def kept_items(cfg: DataConfig, kept: Kept) -> Iterator[Item]:
    """As `items`, for one who keeps them all: ends with a ValueError where they take far more than their files."""
    return items(cfg) if cfg.source == WORLD else kept.of(items(cfg), partial(_size_of, cfg))


def _size_of(cfg: DataConfig) -> int:
    from saccade.data.files import size_at  # loads pyarrow

    return size_at(reading_of(cfg))


def _brief(found: Iterator[Item]) -> Iterator[Item]:
    """The items with short places and reasons: each of a million rows may name all that is in it."""
    for place, item in found:
        if isinstance(item, ValueError):
            item = without_frames(item)
            if len(reason := str(item)) > LONGEST_REASON:
                item.args = (cut(reason, LONGEST_REASON),)
        yield cut(on_a_line(place), LONGEST_REASON), item


def without_frames(error: ValueError) -> ValueError:
    """The error without what it was raised from: the frames hold the row and its images as long as it is kept."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def _labelled(found: Iterator[Item], wanted: Collection[Label]) -> Iterator[Item]:
    """The samples with these labels, and a ValueError in place of each that has none."""
    for place, item in found:
        label = None if isinstance(item, ValueError) else item.meta.get("cold_start")
        if isinstance(item, ValueError):
            yield place, item
        elif label not in get_args(Label):
            expected = f"expected {', '.join(get_args(Label))}, as the files rl_*.jsonl of a cold start have it"
            yield place, ValueError(f"meta.cold_start is {shown(label)}, {expected}; or remove 'cold_start'")
        elif label in wanted:
            yield place, item


def _first(found: Iterator[Item], limit: int) -> Iterator[Item]:
    """Up to `limit` samples; invalid rows do not count."""
    for item in found:
        yield item
        limit -= not isinstance(item[1], ValueError)
        if not limit:
            return


def reading_of(cfg: DataConfig) -> Reading:
    """What the reader of an entry gets."""
    path = cfg.path or Path(cfg.hub or "")
    folder = cfg.image_folder or (path if path.is_dir() else path.parent)
    return Reading(
        path,
        folder,
        cfg.task,
        hub=cfg.hub is not None,
        split=cfg.split,
        negatives=cfg.negatives,
        labels=cfg.labels,
        seed=cfg.seed,
        max_image_pixels=cfg.max_image_pixels,
        roots=roots_of(cfg),
        columns=cfg.columns,
    )


def roots_of(cfg: DataConfig) -> tuple[Path, ...] | None:
    """The folders that image files of an entry may be in, with links followed; None: anywhere."""
    if cfg.allow_outside:
        return None
    path = None if cfg.path is None or cfg.path.is_dir() else cfg.path.parent
    return roots_in((one for one in (path or cfg.path, cfg.image_folder) if one is not None), cfg.data_root)


def record_roots(folder: Path, entries: Sequence[DataConfig]) -> None:
    """Notes in an output folder of ours where the images of its rows may be: where those of `entries` might."""
    roots = [roots_of(entry) for entry in entries if entry.source != WORLD]
    record(folder, [Path("/")] if None in roots else [root for some in roots for root in some or ()])


def _open_files(cfg: DataConfig, kept: Kept) -> Source:
    samples: list[Sample] = []
    skipped, first = 0, ""
    usable = ((place, one if isinstance(one, ValueError) else _usable(one)) for place, one in items(cfg))
    for place, found in kept.of(usable, partial(_size_of, cfg)):
        if isinstance(found, Sample):
            samples.append(found)
        elif cfg.on_bad == "skip":
            skipped += 1
            first = first or f"{place}: {str(found).removeprefix(f'{place}: ')}"
        else:
            raise ValueError(f"{place}: {str(found).removeprefix(f'{place}: ')}") from found
    if not samples:
        labels = f" with cold_start {' or '.join(cfg.cold_start)}" if cfg.cold_start else ""
        rates = f" with a pass rate in {cfg.pass_rate.low:g}..{cfg.pass_rate.high:g}" if cfg.pass_rate else ""
        why = f", the first: {first}" if first else ""
        raise ValueError(f"{cfg.path or cfg.hub}: no usable row{labels}{rates} ({skipped} skipped{why})")
    return Source(cfg.title, samples.__getitem__, len(samples), skipped, cfg.on_bad, first)


def _usable(sample: Sample) -> Sample | ValueError:
    """The sample, or why no task or reward can take it."""
    try:
        if sample.task not in TASKS:
            raise ValueError(f"unknown task {shown(sample.task)}; expected one of {', '.join(TASKS)}")
        check_row(sample)
    except ValueError as error:
        return error
    return sample


def _open_world(cfg: DataConfig) -> Source:
    from saccade.world import World  # loaded only for sources of the world

    assert cfg.task is not None  # DataConfig checks it
    world, task, split = World(cfg.world), cfg.task, cfg.split or "train"
    world.item(cfg.seed, 0, task, split)  # a wrong task or split is reported now
    return Source(cfg.title, lambda index: world.item(cfg.seed, index, task, split).sample, cfg.limit)
