"""Which samples an evaluation asks: those whose question can be written, each under an id of its own, as many as are
wanted."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from saccade.data import Source
from saccade.evaluation.benchmarks.own import known
from saccade.tasks import TASKS
from saccade.types import Sample, with_title

log = logging.getLogger(__name__)
SELECTION_SEED = 0


def askable(source: Source, template: str | None) -> list[Sample]:
    """The samples whose question can be written; others are skipped aloud. ValueError with file and line for the first
    of them where `on_bad` is error, and when there are no others."""
    found, faults = list[Sample](), list[str]()
    for sample in source:
        try:
            TASKS[known(sample).task].prompt(sample, template)
        except ValueError as error:
            faults.append(with_title(sample.title, error))
            if source.on_bad == "error":
                raise ValueError(f"{faults[0]} (set 'on_bad: skip' to skip such rows)") from None
        else:
            found.append(sample)
    if not found:
        raise ValueError(f"source '{source.name}': none of its {len(source):,} rows can be asked; {faults[0]}")
    if faults:
        log.warning("source '%s': %d of its rows are not asked; the first: %s", source.name, len(faults), faults[0])
    return found


def unique(samples: Sequence[Sample]) -> list[Sample]:
    """The samples with unique ids: a repeated id gets its number appended."""
    used = {sample.id for sample in samples}
    seen: Counter[str] = Counter()
    found = []
    for sample in samples:
        seen[sample.id] += 1
        name = sample.id
        while seen[sample.id] > 1 and (name := f"{sample.id}#{seen[sample.id]}") in used:
            seen[sample.id] += 1
        used.add(name)
        found.append(sample if name == sample.id else replace(sample, id=name))
    return found


def group_of(sample: Sample) -> str:
    return str(sample.meta.get("group", sample.id))


def selected(samples: list[Sample], limit: int | None) -> list[Sample]:
    """At most `limit` items, drawn with a seed that never changes, in the order of the file; groups stay whole while
    they fit."""
    if limit is None or len(samples) <= limit:
        return samples
    groups: dict[str, list[int]] = {}
    for number, sample in enumerate(samples):
        groups.setdefault(group_of(sample), []).append(number)
    order = list(groups.values())
    random.Random(SELECTION_SEED).shuffle(order)
    picked: list[int] = []
    for group in order:
        if len(picked) + len(group) <= limit:
            picked += group
    picked = picked or order[0][:limit]
    return [samples[number] for number in sorted(picked)]
