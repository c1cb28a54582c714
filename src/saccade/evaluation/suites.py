"""Benchmarks: held-out questions of the visual world, and any data set that `saccade.data` reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from saccade.types import Sample
from saccade.world import World, WorldConfig
from saccade.world.splits import find_split


def heldout_seed(seed: int) -> int:
    """A world seed of its own name space in [2^62, 2^63): no training seed, which people choose small, meets it."""
    digest = hashlib.sha256(f"saccade/held-out/{seed}".encode()).digest()
    return (1 << 62) | (int.from_bytes(digest[:8], "big") >> 2)


def world_suite(
    splits: Sequence[str], tasks: Sequence[str], n: int, seed: int, config: WorldConfig | None = None
) -> list[Sample]:
    """`n` held-out questions for each split and each of `tasks` that the split has.

    Ids are '<split>/<task>/<seed>/<index>'. Raises ValueError for an unknown split, and for a split
    with none of the tasks.
    """
    world, hidden = World(config or WorldConfig()), heldout_seed(seed)
    suite: list[Sample] = []
    for split in splits:
        known = [task for task in tasks if task in find_split(split).tasks]
        if not known:
            raise ValueError(
                f"split '{split}' has none of the tasks {list(tasks)}; it has {', '.join(find_split(split).tasks)}"
            )
        for task in known:
            items = (world.item(hidden, index, task, split).sample for index in range(n))
            suite += [_named(sample, f"{split}/{task}/{seed}/{index}", split) for index, sample in enumerate(items)]
    return suite


def _named(sample: Sample, name: str, split: str) -> Sample:
    return replace(sample, id=name, meta={**sample.meta, "split": split})
