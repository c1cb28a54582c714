"""The training data of the tiny base, as packed rows: one picture, several questions, each answered by some habit.

Every training target ends in the true answer; habits differ only in the computation that they write out, so that a
preference for one of them is learned by RL and not built into the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TypeVar

from PIL import Image

from saccade.base.config import PretrainMixture
from saccade.models.adapter import Adapter, EncodedPrompt, shared_prefix
from saccade.models.packing import Branch
from saccade.rollout.prompts import Prompt
from saccade.tasks import TASKS
from saccade.training.step import Unit
from saccade.types import Sample
from saccade.world import Question, Scene, World
from saccade.world.generator import KINDS
from saccade.world.scene import Thing

Key = TypeVar("Key", bound=str)
DRILL = "drill"
TASKS_PER_PICTURE = 3


def draw(rng: Random, weights: Mapping[Key, float]) -> Key:
    """A key with probability proportional to its weight."""
    return rng.choices(list(weights), list(weights.values()))[0]


def pick_tasks(mixture: PretrainMixture, scene_kind: str, rng: Random) -> list[str]:
    """Up to TASKS_PER_PICTURE different tasks allowed by the scene, drawn by weight without replacement."""
    weights = mixture.tasks or dict.fromkeys(KINDS, 1.0)
    left = {task: weight for task, weight in weights.items() if scene_kind in KINDS[task].scenes}
    picked: list[str] = []
    while left and len(picked) < TASKS_PER_PICTURE:
        picked.append(draw(rng, left))
        del left[picked[-1]]
    return picked


def row(world: World, adapter: Adapter, mixture: PretrainMixture, rng: Random, index: int) -> tuple[Unit, list[str]]:
    """One picture with its questions as branches, and the name of each branch ('count/enumerate')."""
    kind = draw(rng, mixture.scenes)
    scene = world.scene(rng.randrange(2**31), index, "train", kind)
    questions = world.questions(scene, rng, mixture.questions, pick_tasks(mixture, kind, rng))
    if mixture.questions and not questions:
        return row(world, adapter, mixture, rng, index)
    images = [world.render(scene)] + ([world.render(scene.after)] if scene.after else [])
    first = adapter.encode("<image>" * len(images), images)
    entries: list[tuple[str, str, str]] = []
    for question in questions:
        habit = draw(rng, mixture.habits)
        sample = as_sample(question, images)
        task = TASKS[question.task]
        reply = task.write_gold(sample, first.frames, think=world.chain(question, habit, rng))
        entries.append((task.prompt(sample), reply, f"{question.task}/{habit}"))
    for _ in range(mixture.drills if scene.kind in ("shapes", "digits") else 0):
        text, reply = drill(scene, draw(rng, mixture.drill_forms), rng)
        entries.append(("<image>" * len(images) + text, reply, DRILL))
    return _branches(adapter, entries, images, first)


def _branches(
    adapter: Adapter, entries: Sequence[tuple[str, str, str]], images: Sequence[Image.Image], first: EncodedPrompt
) -> tuple[Unit, list[str]]:
    prompts = [adapter.encode(text, images, reuse_images_from=first) for text, _, _ in entries]
    prefix, tails = shared_prefix([first, *prompts])
    branches = []
    for tail, (_, reply, _) in zip(tails[1:], entries, strict=True):
        ids = [*tail, *adapter.encode_reply(reply)]
        branches.append(Branch(ids, ((len(tail), len(ids)),)))
    return Unit(Prompt(None, prefix), tuple(branches)), [name for _, _, name in entries]


def as_sample(question: Question, images: Sequence[Image.Image]) -> Sample:
    """The sample of a question about rendered pictures."""
    meta = {"source": "world", **dict(question.meta)}
    if question.options:
        meta["options"] = list(question.options)
    return Sample("", tuple(images), question.text, question.answer, question.task, meta)


def _named(thing: Thing) -> str:
    return f"{thing.digit or thing.size} {thing.color} {thing.shape}"


def drill(scene: Scene, form: str, rng: Random) -> tuple[str, str]:
    """A read-out as text: the content of a cell, a position, a box, or all objects. No think block: drills are not
    answers."""
    if form == "describe":
        return "Describe the picture.", " " + ", ".join(f"{t.cell} {_named(t)}" for t in scene.objects)
    thing = rng.choice(scene.objects)
    if form == "read":
        cell = rng.choice([thing.index, rng.randrange(scene.cells**2)])
        found = [t for t in scene.objects if t.index == cell]
        name = f"{'abcdefghi'[cell % scene.cells]}{cell // scene.cells + 1}"
        if not found:
            return f"read {name}", " empty"
        return f"read {name}", f" {_named(found[0])}"
    if form == "box":
        return f"box {thing.cell}", '{"bbox_2d": [' + ", ".join(str(round(v)) for v in thing.box) + "]}"
    words = rng.choice([(thing.color,), (thing.shape,), (thing.color, thing.shape)])
    found = [t for t in scene.objects if all(w in (t.color, t.shape) for w in words)]
    return f"point {' '.join(words)}", " " + ", ".join(t.cell for t in found)
