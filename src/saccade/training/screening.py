"""What can be known of rows before the first step: those that the model cannot read are refused or skipped, aloud."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace

from saccade.data import DataConfig, Source
from saccade.data.images import image_size
from saccade.data.sources import WORLD
from saccade.models.adapter import Adapter
from saccade.models.counting import TokenCounter
from saccade.rollout.prompts import place_of
from saccade.tasks import TASKS

log = logging.getLogger(__name__)


def screen(
    entries: Sequence[DataConfig], sources: Sequence[Source], adapter: Adapter, template: str | None, new_tokens: int
) -> list[Source]:
    """The sources with the samples marked that the model cannot read: images too thin, reserved tokens, prompts that
    leave no room for `new_tokens`. Reads headers only.

    ValueError with file and line for the first of them where `on_bad` is error, and when a source has no other.
    """
    counter, room = TokenCounter(adapter), adapter.context_length - new_tokens
    return [
        source if entry.source == WORLD else _screened(source, counter, room, template)
        for entry, source in zip(entries, sources, strict=True)
    ]


def _screened(source: Source, counter: TokenCounter, room: int, template: str | None) -> Source:
    unusable, first = set[int](), source.first_skipped
    for index, sample in enumerate(source):
        try:
            sizes = [image_size(image, sys.maxsize) for image in sample.images]
            counter.check(TASKS[sample.task].prompt(sample, template), sizes, room)
        except (ValueError, OSError) as error:
            if source.on_bad == "error":
                raise ValueError(f"{place_of(sample)}: {error} (set 'on_bad: skip' to skip such rows)") from None
            unusable.add(index)
            first = first or f"{place_of(sample)}: {error}"
    if len(unusable) == len(source):
        raise ValueError(f"source '{source.name}': the model can read none of its {len(source):,} rows; {first}")
    if skipped := source.skipped + len(unusable):
        usable = len(source) - len(unusable)
        log.warning("source '%s': %d rows skipped, %d used; the first: %s", source.name, skipped, usable, first)
    return replace(source, unusable=frozenset(unusable))
