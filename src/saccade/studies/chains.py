"""Examples for supervised fine-tuning from the world's own chains of thought: a stream, and a set on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from saccade.disk import write_text
from saccade.models.adapter import Adapter
from saccade.tasks import TASKS
from saccade.training.examples import Draw, Example
from saccade.types import Frame, Sample
from saccade.world import World, WorldItem


@dataclass(frozen=True, slots=True)
class ChainSource:
    """A stream of (question, right reply in some habit); item i is a pure function of (seed, i)."""

    world: World
    adapter: Adapter
    tasks: tuple[str, ...]
    habits: Mapping[str, float]
    """Relative weights. A habit determines what the chain writes out; the answer is always the true one."""
    seed: int
    split: str = "train"

    def item(self, index: int) -> tuple[WorldItem, str, str]:
        """(item, habit, reply)."""
        rng = Random(f"chains/{self.seed}/{index}")
        task = self.tasks[index % len(self.tasks)]
        item = self.world.item(self.seed, index, task, self.split)
        habit = rng.choices(list(self.habits), list(self.habits.values()))[0]
        think = self.world.chain(item.question, habit, rng)
        return item, habit, TASKS[task].write_gold(item.sample, frames_of(self.adapter, item.sample), think=think)

    def example(self, index: int) -> Example:
        item, _, reply = self.item(index)
        return Example(item.sample.id, TASKS[item.sample.task].prompt(item.sample), item.sample.images, reply)

    def draw(self) -> Draw:
        """New examples at every step; none is repeated."""
        return lambda step, n: [self.example(i) for i in range(step * n, step * n + n)]


def frames_of(adapter: Adapter, sample: Sample) -> tuple[Frame, ...]:
    """The frames in which the adapter's family writes boxes on the sample's images."""
    images = [image for image in sample.images if not isinstance(image, str | bytes)]
    return adapter.encode("<image>" * len(images), images).frames


def write_chains(source: ChainSource, out: Path, n: int) -> Path:
    """Write n examples as images and `train.jsonl` (a row: id, images, task, question, answer, response, meta).

    The file is renamed into place last, so a directory with `train.jsonl` is complete.
    """
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for index in range(n):
        item, habit, reply = source.item(index)
        names = [f"{index:05d}-{k}.png" for k in range(len(item.sample.images))]
        for name, image in zip(names, item.sample.images, strict=True):
            assert not isinstance(image, str | bytes)  # the world draws its images
            image.save(folder / name)
        row = {
            "id": item.sample.id,
            "images": [f"images/{name}" for name in names],
            "task": item.sample.task,
            "question": item.sample.question,
            "answer": item.sample.answer,
            "response": reply,
            "meta": {**item.sample.meta, "habit": habit},
        }
        lines.append(json.dumps(row) + "\n")
    write_text(out / "train.jsonl", "".join(lines))
    return out / "train.jsonl"
