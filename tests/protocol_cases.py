"""What the tests of official protocols share: a sample in a line, a judge with given replies, the grade."""

from __future__ import annotations

from typing import Any

from saccade.evaluation.benchmarks import BENCHMARKS, Grade
from saccade.evaluation.benchmarks.benchmark import JudgeUnavailable
from saccade.evaluation.benchmarks.replies import read
from saccade.types import Frame, Sample

FRAME = Frame("thousand", (200, 100), (200, 100))


class Judge:
    """Returns the given texts, in order; keeps the prompts."""

    id = "a judge"

    def __init__(self, *says: str) -> None:
        self.says, self.prompts = list(says), list[str]()

    def ask(self, prompt: str, temperature: float = 0.0) -> str:
        self.prompts.append(prompt)
        if not self.says:
            raise JudgeUnavailable("status 503")
        return self.says.pop(0)


def grade(name: str, text: str, sample: Sample, judge: Judge | None = None, mode: str = "official") -> Grade:
    return BENCHMARKS[name].modes[mode].grade(read(text, (FRAME,) * len(sample.images)), sample, judge)


def ask(answer: Any, task: str = "free_form", images: int = 0, **meta: Any) -> Sample:
    return Sample("1", ("x.png",) * images, "What is x?", answer, task, {"options": [], **meta})


REFER = ask([20.0, 10.0, 100.0, 50.0], "refer", images=1)
"""In frame thousand of a 200 x 100 image: [100, 100, 500, 500]."""
CHOICES = {"options": ["3", "4", "2\\sqrt{5}", "60"], "precise_value": [3.0, 4.0, 4.472, 60.0]}
