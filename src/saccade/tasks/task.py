"""A task: prompt template, rubrics, gold writer and grader of one kind of question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from saccade.grading import Verdict
from saccade.parsing import read_final
from saccade.rewards import PartConfig, Rubric, RubricConfig
from saccade.tasks.conversation import later_images
from saccade.tasks.templates import write_prompt
from saccade.types import Completion, Frame, Sample

THINK = "The answer can be seen."
"""The think text of a gold reply without a written one."""

Writer = Callable[[Sample, Sequence[Frame]], str]
Grader = Callable[[str, Sample, Sequence[Frame]], Verdict]


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of question. `Sample.task` names it in `TASKS`.

    task = TASKS["count"]
    task.prompt(sample), task.write_gold(sample), task.correct(completion, sample)
    """

    name: str
    template: str
    """Name in `TEMPLATES`; the default of `prompt`."""
    rubrics: Mapping[str, RubricConfig]
    """By name: 'default', 'hard', 'format_and_accuracy'."""
    writer: Writer
    grader: Grader
    """Verdict on an answer's text."""
    images: int | None = None
    """Number of images in a question; None: any number."""

    def prompt(self, sample: Sample, template: str | None = None) -> str:
        """The user's turn, with exactly `len(sample.images)` `<image>` markers. ValueError for a sample that does not
        fit, and for one whose later turns have images: only its first question would be asked."""
        if later := later_images(sample):
            raise ValueError(
                f"sample {sample.id!r}: {later} of its {len(sample.images)} images belong to later turns of the "
                "conversation, which only supervised fine-tuning reads; make one row per question"
            )
        if self.images is not None and len(sample.images) != self.images:
            raise ValueError(
                f"sample {sample.id!r}: got {len(sample.images)} images, expected {self.images} for task '{self.name}'"
            )
        return write_prompt(sample, template or self.template)

    def write_answer(self, sample: Sample, frames: Sequence[Frame] = ()) -> str:
        """The content of the answer tag of a right reply; boxes are written in their image's frame."""
        return self.writer(sample, frames)

    def write_gold(self, sample: Sample, frames: Sequence[Frame] = (), think: str = THINK) -> str:
        """A complete right reply in strict format. `think` must not be empty."""
        if not think.strip():
            raise ValueError(f"sample {sample.id!r}: got an empty think text, expected some words")
        return f"<think>{think}</think><answer>{self.write_answer(sample, frames)}</answer>"

    def rubric(self, name: str | None = None) -> Rubric:
        """The rubric of that name, by default 'default'."""
        wanted = name or "default"
        if wanted not in self.rubrics:
            close = get_close_matches(wanted, self.rubrics, n=1, cutoff=0.5)
            hint = f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(self.rubrics)}"
            raise ValueError(f"task '{self.name}' has no rubric '{wanted}'{hint}")
        return self.rubrics[wanted].build()

    def correct(self, completion: Completion, sample: Sample) -> Verdict:
        r"""The verdict of evaluation on a complete reply. The format is not checked.

        The answer is the last answer block after all thinking, else the last `\boxed`, else the text after the
        thinking.
        """
        answer = read_final(completion.text)
        if answer is None:
            return Verdict(False, "no answer", "truncated" if completion.truncated else "the reply ends without one")
        verdict = self.grader(answer, sample, completion.frames)
        return verdict if verdict.right is not None else replace(verdict, detail=f"{sample.id}: {verdict.detail}")


def rubrics(soft: PartConfig, exact: PartConfig | None = None) -> dict[str, RubricConfig]:
    """The three rubrics of a task from its accuracy.

    `soft` is what RL maximizes; `exact` (default: the same) is 1 only for a right answer. 'default' keeps the total in
    [0, 1]; 'format_and_accuracy' is the plain sum of VLM-R1 and of Vision-R1's Zero; 'hard' is Vision-R1's. A row that
    names its own reward (`meta.reward`, `accu_reward_method`) overrides the accuracy.
    """
    right = exact or soft
    soft = soft.model_copy(update={"by_row": True})
    form = PartConfig(name="format")
    hard = PartConfig(name="hard", options={"accuracy": right.name, "options": right.options}, by_row=True)
    return {
        "default": RubricConfig(parts=(soft.model_copy(update={"weight": 0.9}), PartConfig(name="format", weight=0.1))),
        "hard": RubricConfig(parts=(hard,)),
        "format_and_accuracy": RubricConfig(parts=(soft, form)),
    }
