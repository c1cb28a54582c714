"""What can be known of rows before the first step: those that the model cannot read are refused or skipped, aloud."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from saccade.data import Source
from saccade.data.config import WORLD
from saccade.data.images import image_size
from saccade.models.adapter import Adapter
from saccade.models.counting import TokenCounter
from saccade.tasks import TASKS
from saccade.tasks.conversation import turns_before
from saccade.training.config import RLRecipe
from saccade.types import Sample, with_title

log = logging.getLogger(__name__)


def screen(recipe: RLRecipe, sources: Sequence[Source], adapter: Adapter) -> list[Source]:
    """The sources with the samples marked that the model cannot read: images too thin, reserved tokens, prompts that
    leave no room for the longest reply of any stage. Reads headers only.

    ValueError with file and line for the first of them where `on_bad` is error, and when a source has no other.
    """
    counter = TokenCounter(adapter)
    room = room_in(recipe, adapter)

    def check(sample: Sample) -> None:
        sizes = [image_size(image, sys.maxsize) for image in sample.images]
        text = TASKS[sample.task].prompt(sample, recipe.template)
        counter.check(text, sizes, room, turns_before(sample, recipe.system_prompt))

    return [
        source if entry.source == WORLD else _screened(source, check)
        for entry, source in zip(recipe.data, sources, strict=True)
    ]


def room_in(recipe: RLRecipe, adapter: Adapter) -> int:
    """Tokens that a prompt may have beside the longest reply of any stage. ValueError when there are none."""
    longest = max(stage.max_new_tokens for stage in recipe.stages)
    if longest >= adapter.context_length:
        raise ValueError(
            f"stages: max_new_tokens is {longest:,}, the model's context holds {adapter.context_length:,} tokens, the "
            "prompt among them; lower it"
        )
    return adapter.context_length - longest


def _screened(source: Source, check: Callable[[Sample], None]) -> Source:
    unusable, first = set[int](), source.first_skipped
    for index, sample in enumerate(source):
        try:
            check(sample)
        except (ValueError, OSError) as error:
            if source.on_bad == "error":
                raise ValueError(f"{with_title(sample.title, error)} (set 'on_bad: skip' to skip such rows)") from None
            unusable.add(index)
            first = first or with_title(sample.title, error)
    if len(unusable) == len(source):
        raise ValueError(f"source '{source.name}': the model can read none of its {len(source):,} rows; {first}")
    if skipped := source.skipped + len(unusable):
        usable = len(source) - len(unusable)
        log.warning("source '%s': %d rows skipped, %d used; the first: %s", source.name, skipped, usable, first)
    return replace(source, unusable=frozenset(unusable))
