"""The reward of form, and the hard formatting result reward."""

from __future__ import annotations

from collections.abc import Callable

from saccade.parsing import read_reply
from saccade.types import Completion, Sample, Score


def strict_format(completion: Completion, sample: Sample) -> Score:
    """1 when the reply is one non-empty think block, then one non-empty answer block, and nothing else; else 0."""
    reply = read_reply(completion.text)
    return Score(float(reply.strict), reply.reason)


def hard_of(accuracy: Callable[[Completion, Sample], Score]) -> Callable[[Completion, Sample], Score]:
    """The hard formatting result reward (Vision-R1, arXiv 2503.06749) over an accuracy.

    1 when the format is strict and `accuracy` gives full marks, else 0.
    """

    def hard(completion: Completion, sample: Sample) -> Score:
        form = strict_format(completion, sample)
        if form.value < 1.0:
            return form
        answer = accuracy(completion, sample)
        return Score(float(answer.value >= 1.0), answer.reason if answer.value < 1.0 else None, masked=answer.masked)

    return hard
