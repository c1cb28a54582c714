"""A question reads the same wherever it is asked: fine-tuning, RL, evaluation, held-out checks, `saccade predict`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from saccade.evaluation.answerers import EvalQuestion
from saccade.evaluation.eval_plan import own_plan
from saccade.evaluation.local_model import LocalModel
from saccade.rollout.prompts import prepare
from saccade.tasks import TASKS, TEMPLATES
from saccade.tasks.templates import write_prompt
from saccade.training.config import ExampleConfig
from saccade.training.examples import encode_step, read_examples
from saccade.types import Frame, Sample

OPTIONS = {"choice": ["red", "green"]}
QUESTIONS = ["What is it?", "Solve {x} and {question}: <image>"]


class Encoded(SimpleNamespace):
    """A prompt of no length."""

    def __len__(self) -> int:
        return 0


class Listener:
    """An adapter that only listens to what it is told to encode."""

    context_length = 8
    image_ids = ()

    def __init__(self) -> None:
        self.told: list[str] = []

    def encode(self, text: str, images: Any, like: Any = None, before: Any = ()) -> Any:
        self.told.append("\n".join([*(turn.text for turn in before), text]))
        frames = tuple(Frame("thousand", image.size, image.size) for image in images)
        return Encoded(frames=frames, image_shas=("0",) * len(images), prompt_id="p", opened="")

    def encode_reply(self, text: str, opened: str = "") -> list[int]:
        return [1]


def fine_tuned(folder: Path, sample: Sample, template: str | None) -> str:
    row = {"id": sample.id, "images": ["a.png"], "task": sample.task, "question": sample.question, "response": "r"}
    (folder / "rows.jsonl").write_text(json.dumps(row | {"meta": dict(sample.meta)}) + "\n")
    listener = Listener()
    encode_step(listener, read_examples(ExampleConfig(path=folder / "rows.jsonl"), template))
    return listener.told[0]


def reinforced(sample: Sample, template: str | None) -> str:
    listener = Listener()
    prepare(listener, sample, template)
    return listener.told[0]


def evaluated(sample: Sample, template: str | None) -> str:
    listener = Listener()
    plan = own_plan([sample], template)
    model: Any = LocalModel(SimpleNamespace(adapter=listener), None)
    model._prompt(EvalQuestion(plan.samples[0], plan.prompt.write(plan.samples[0]), 0))
    return listener.told[0]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("template", [None, *TEMPLATES])
def test_a_prompt_is_the_same_for_fine_tuning_rl_evaluation_and_serving(
    tmp_path: Path, template: str | None, question: str
):
    Image.new("RGB", (28, 28)).save(tmp_path / "a.png")
    for task, answer in (("choice", "A"), ("count", "3"), ("refer", [1, 2, 3, 4])):
        meta = {"options": OPTIONS[task]} if task in OPTIONS else {}
        sample = Sample("s", (str(tmp_path / "a.png"),), question, answer, task, meta)
        prompts = {fine_tuned(tmp_path, sample, template), reinforced(sample, template), evaluated(sample, template)}
        assert prompts == {write_prompt(sample, template or TASKS[task].template)}
