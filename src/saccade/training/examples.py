"""Examples of supervised fine-tuning: where they come from, and how those about one prompt come together.

A file has a row per reply: `{"id", "image" or "images", "question" (with "task") or "prompt", "response", "meta"}`.
A `question` is written by its task's template, a `prompt` is the whole user's turn.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

from pydantic import Field

from saccade.config import Config
from saccade.data import records
from saccade.data.images import load_image
from saccade.data.records import MARKER, Row
from saccade.models.adapter import Adapter, EncodedPrompt
from saccade.tasks import TASKS
from saccade.types import ImageSource, Sample


@dataclass(frozen=True, slots=True)
class Example:
    """A user's turn with its images and the reply to learn."""

    id: str
    prompt: str
    """With one `<image>` marker per image."""
    images: tuple[ImageSource, ...]
    reply: str


Draw = Callable[[int, int], Sequence[Example]]
"""(step from 0, n) -> examples of n prompts, any number of replies each; a pure function, so that resuming is exact."""


class ExampleConfig(Config):
    """A file of examples."""

    path: Path
    image_folder: Path | None = None
    """What image names are relative to; the folder of `path` when null."""
    limit: int | None = Field(default=None, ge=1)
    """The first rows only."""


def read_examples(config: ExampleConfig, template: str | None = None) -> list[Example]:
    """The rows of a file. ValueError with file and line for a row that is not right, or when there is none."""
    folder, checked = config.image_folder or config.path.parent, set[str]()

    def read(row: Row, place: str) -> Example:
        names = records.field(row, "images" if "images" in row else "image", (str, list))
        images = records.image_paths(names, folder, checked)
        reply = records.field(row, "response", str)
        if not reply.strip():
            raise ValueError("field 'response' is empty; expected the reply to learn")
        sample_id = str(row.get("id", place))
        if "prompt" in row:
            prompt = records.with_markers(records.field(row, "prompt", str), len(images))
            return Example(sample_id, prompt if MARKER in prompt else MARKER * len(images) + prompt, images, reply)
        task = records.field(row, "task", str)
        if task not in TASKS:
            raise ValueError(f"field 'task': got {task!r}, expected one of {', '.join(TASKS)} (or give a 'prompt')")
        question = records.with_markers(records.field(row, "question", str), len(images))
        sample = Sample(sample_id, images, question, row.get("answer"), task, row.get("meta") or {})
        return Example(sample_id, TASKS[task].prompt(sample, template), images, reply)

    examples, _ = records.collect(records.jsonl_rows(config.path), read, skip=False)
    if not examples:
        raise ValueError(f"{config.path}: holds no examples")
    return examples[: config.limit]


def by_prompt(examples: Sequence[Example]) -> list[list[Example]]:
    """Examples about the same images with the same prompt together, in order of first appearance."""
    found: dict[Hashable, list[Example]] = {}
    for example in examples:
        images = tuple(source if isinstance(source, str | bytes) else id(source) for source in example.images)
        found.setdefault((example.prompt, images), []).append(example)
    return list(found.values())


def draw_from(examples: Sequence[Example], seed: int) -> tuple[Draw, int]:
    """A draw that walks over the prompts in a new seeded order each epoch, and the number of prompts."""
    prompts = by_prompt(examples)

    @lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        places = list(range(len(prompts)))
        Random(f"{seed}/{epoch}").shuffle(places)
        return places

    def draw(step: int, n: int) -> list[Example]:
        positions = (divmod(position, len(prompts)) for position in range(step * n, step * n + n))
        return [example for epoch, place in positions for example in prompts[order(epoch)[place]]]

    return draw, len(prompts)


@dataclass(frozen=True, slots=True)
class EncodedUnit:
    """One prompt with the token ids of all replies about it; they share a packed row."""

    prompt: EncodedPrompt
    replies: tuple[tuple[int, ...], ...]

    @property
    def reply_tokens(self) -> int:
        return sum(len(reply) for reply in self.replies)


def encode_units(adapter: Adapter, examples: Sequence[Example]) -> list[EncodedUnit]:
    """Reads the images and encodes. Errors name the example."""
    units = []
    for together in by_prompt(examples):
        first = together[0]
        try:
            prompt = adapter.encode(first.prompt, [load_image(source) for source in first.images])
            replies = tuple(tuple(adapter.encode_reply(one.reply)) for one in together)
        except (ValueError, OSError) as error:
            raise ValueError(f"example {first.id!r}: {error}") from error
        units.append(EncodedUnit(prompt, replies))
    return units
