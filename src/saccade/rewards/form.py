"""The format reward and the hard formatting result reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from saccade import parsing
from saccade.rewards.wrapping import wrap_reward
from saccade.types import Completion, Sample, Score

AnswerForm = Literal["any", "letter", "number", "yes_no", "box", "boxes", "point", "boxed"]

FORMS: dict[AnswerForm, Callable[[str], bool]] = {
    "any": lambda answer: True,
    "letter": lambda answer: parsing.read_choice(answer) is not None,
    "number": lambda answer: parsing.read_number(answer) is not None,
    "yes_no": lambda answer: parsing.read_yes_no(answer) is not None,
    "box": lambda answer: len(parsing.read_boxes(answer)) == 1,
    "boxes": lambda answer: parsing.read_detections(answer) is not None,
    "point": lambda answer: len(parsing.read_points(answer)) == 1,
    "boxed": lambda answer: parsing.read_boxed(answer) is not None,
}
"""Answer form -> whether a text has it."""


def strict_format(completion: Completion, sample: Sample, form: AnswerForm = "any") -> Score:
    """1 when the reply is one non-empty think block, then one non-empty answer block, and nothing else.

    With `form`, the answer must also have the form of its task: one letter, one number, yes or no, one box, a list of
    boxes (or a plain 'None'), one point, a \\boxed expression. The content is not checked.

    Formula: 1 if the format is right, else 0.
    Source: DeepSeek-R1 (arXiv 2501.12948); VLM-R1's, which accepts empty blocks and text around them.
    """
    reply = parsing.read_reply(completion.text)
    if not reply.strict or reply.answer is None:
        return Score(0.0, reply.reason)
    fits = FORMS[form](reply.answer)
    return Score(float(fits), None if fits else f"the answer is no {form}")


def hard_of(accuracy: Callable[[Completion, Sample], Score]) -> Callable[[Completion, Sample], Score]:
    """The hard formatting result reward (Vision-R1, arXiv 2503.06749) over an accuracy.

    1 when the format is strict and `accuracy` gives full marks, else 0.
    """

    def loose(completion: Completion, sample: Sample) -> Score | None:
        form = strict_format(completion, sample)
        return form if form.value < 1.0 else None

    def hard(completion: Completion, sample: Sample, answer: Score) -> Score:
        return Score(float(answer.value >= 1.0), answer.reason if answer.value < 1.0 else None, masked=answer.masked)

    return wrap_reward(accuracy, loose, hard)
