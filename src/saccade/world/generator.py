"""The world itself: scenes, questions, items and chains, each a pure function of a seed and an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from PIL import Image

from saccade.types import Sample
from saccade.world import charts, counting, deciding, differing, figures, locating
from saccade.world.chains import write_chain
from saccade.world.config import HELD_OUT, WorldConfig
from saccade.world.draw import render
from saccade.world.mistakes import wrong_chain
from saccade.world.question import Question, TaskKind
from saccade.world.sampling import sample_objects
from saccade.world.scene import Scene
from saccade.world.splits import Split, find_split

_TASK_MODULES = (counting, locating, charts, figures, deciding, differing)
KINDS: dict[str, TaskKind] = {name: kind for room in _TASK_MODULES for name, kind in room.KINDS.items()}
SCENES = {
    "shapes": sample_objects,
    "digits": sample_objects,
    "chart": charts.sample_chart,
    "geometry": figures.sample_figure,
    "pair": differing.sample_pair,
}

_MAX_SCENES = 2000


@dataclass(frozen=True, slots=True)
class WorldItem:
    """A sample with its scene and question."""

    sample: Sample
    scene: Scene
    question: Question


class World:
    """An infinite, deterministic source of scenes and questions with exact ground truth."""

    def __init__(self, cfg: WorldConfig | None = None) -> None:
        self.cfg = cfg or WorldConfig()

    def scene(self, seed: int, index: int, split: str = "train", kind: str = "shapes") -> Scene:
        """A scene of a kind (a key of `SCENES`), deterministic in the arguments on any machine."""
        if kind not in SCENES:
            raise ValueError(f"unknown scene kind {kind!r}; the world draws {', '.join(SCENES)}")
        rng = Random(f"scene/{split}/{kind}/{seed}/{index}")
        return SCENES[kind](rng, self.cfg, find_split(split), kind)

    def render(self, scene: Scene) -> Image.Image:
        """The scene's image, RGB."""
        return render(scene)

    def questions(
        self, scene: Scene, rng: Random, k: int, tasks: Sequence[str] | None = None, split: str = "train"
    ) -> list[Question]:
        """Up to k different questions about one scene; tasks alternate, and answers of a task differ if possible.

        Tasks that do not fit the scene's kind are skipped.
        """
        rules = find_split(split)
        names = [name for name in (tasks or rules.tasks) if scene.kind in _kind(name).scenes]
        rng.shuffle(names)
        pools: dict[str, list[Question]] = {}
        chosen: list[Question] = []
        while names and len(chosen) < k:
            name = names.pop(0)
            if name not in pools:
                pools[name] = self._by_answer(scene, rng, name, rules)
            if pools[name]:
                chosen.append(pools[name].pop())
                names.append(name)
        return chosen

    def _by_answer(self, scene: Scene, rng: Random, task: str, split: Split) -> list[Question]:
        """All questions of a task, ordered so that popping from the end first visits each answer once."""
        groups: dict[str, list[Question]] = {}
        for question in _valid_questions(scene, rng, task, self.cfg, split):
            groups.setdefault(repr(question.answer), []).append(question)
        ranked = []
        for group in groups.values():
            rng.shuffle(group)
            ranked += [(-round_, rng.random(), question) for round_, question in enumerate(group)]
        return [question for _, _, question in sorted(ranked, key=lambda r: r[:2])]

    def item(self, seed: int, index: int, task: str, split: str = "train") -> WorldItem:
        """One sample whose answer class was drawn first, so that a task's answers are balanced."""
        rules = find_split(split)
        kind = _kind(task)
        if task not in rules.tasks:
            raise ValueError(f"split {split!r} has no task {task!r}; it has {', '.join(rules.tasks)}")
        rng = Random(f"item/{split}/{task}/{seed}/{index}")
        target = kind.draw_class(rng, self.cfg, rules)
        for _ in range(_MAX_SCENES):
            scene_kind = rng.choice(kind.scenes)
            scene = SCENES[scene_kind](rng, self.cfg, rules, scene_kind)
            fitting = [q for q in _valid_questions(scene, rng, task, self.cfg, rules) if kind.class_of(q) == target]
            if fitting:
                # draw the wording first, or a rare answer would mostly have the most frequent wording
                level = rng.choice(sorted({question.level for question in fitting}))
                question = rng.choice([question for question in fitting if question.level == level])
                sample = to_sample(question, f"world/{split}/{task}/{seed}/{index}", split, seed, index)
                return WorldItem(sample, question.scene, question)
        raise ValueError(
            f"no scene for task {task!r}, split {split!r} and answer class {target!r} in {_MAX_SCENES} attempts; "
            f"raise objects_max (got {self.cfg.objects_max}) or lower count_max (got {self.cfg.count_max})"
        )

    def chain(self, question: Question, habit: str, rng: Random) -> str:
        """The content of the think tag for a habit of `HABITS`; it leads to the true answer."""
        return write_chain(question, habit, rng)

    def wrong_chain(self, question: Question, rng: Random) -> tuple[str, Any]:
        """A wrong think text and its wrong answer: for testing filters, never for training."""
        return wrong_chain(question, KINDS, rng)


def to_sample(question: Question, name: str, split: str, seed: int, index: int) -> Sample:
    """The sample of a question, with decoded images."""
    scenes = [question.scene] + ([question.scene.after] if question.scene.after else [])
    meta = {
        "source": "world",
        "split": split,
        "seed": seed,
        "index": index,
        "world_kind": question.scene.kind,
        "difficulty": len(question.targets),
        "level": question.level,
        **dict(question.meta),
    }
    if question.options:
        meta["options"] = list(question.options)
    return Sample(name, tuple(render(s) for s in scenes), question.text, question.answer, question.task, meta)


def _kind(task: str) -> TaskKind:
    if task not in KINDS:
        raise ValueError(f"unknown task {task!r}; expected one of {', '.join(KINDS)}")
    return KINDS[task]


def _valid_questions(scene: Scene, rng: Random, task: str, cfg: WorldConfig, split: Split) -> list[Question]:
    """The questions of a task about a scene; for held-out combinations only those whose targets include one."""
    kind = KINDS[task]
    answered = (kind.ask(query, scene) for query in kind.propose(scene, rng, cfg, split))
    questions = [question for question in answered if question is not None]
    if split.held_out:
        questions = [q for q in questions if any((t.color, t.shape) in HELD_OUT for t in q.targets)]
    return questions
