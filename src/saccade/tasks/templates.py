"""How a question is put to a model. One table; a template never changes under its id, a new wording is a new id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from saccade.types import Sample

IMAGE = "<image>"
"""Stands for one image in a prompt; the adapter puts the image's tokens there."""


@dataclass(frozen=True, slots=True)
class Template:
    """A wording around the question, which replaces `{question}`."""

    id: str
    """Name and version, kept with results."""
    text: str


TEMPLATES: dict[str, Template] = {
    "bare": Template("bare.v1", "{question}"),
    "vlm_r1": Template(
        "vlm_r1.v1",
        "{question} First think it through in <think> </think> tags, "
        "then give the final answer in <answer> </answer> tags.",
    ),
    "vlm_r1_json": Template(
        "vlm_r1_json.v1",
        "{question} First think it through in <think> </think> tags, "
        "then give the final answer in <answer> </answer> tags. "
        "Write the final answer in JSON.",
    ),
}


def write_prompt(sample: Sample, template: str) -> str:
    """The user's turn: exactly one `<image>` marker per image, the question, its options, the template's words.

    A question without markers gets its images in front. Raises ValueError when a question has another number of
    markers than images, or for an unknown template.
    """
    if template not in TEMPLATES:
        close = get_close_matches(template, TEMPLATES, n=1, cutoff=0.5)
        hint = f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(TEMPLATES)}"
        raise ValueError(f"unknown template '{template}'{hint}")
    question = sample.question + write_options(sample.meta.get("options") or ())
    if IMAGE not in question:
        question = IMAGE * len(sample.images) + question
    if question.count(IMAGE) != len(sample.images):
        raise ValueError(
            f"sample {sample.id!r}: got {question.count(IMAGE)} {IMAGE} markers for {len(sample.images)} images; "
            "expected one per image, or none"
        )
    return TEMPLATES[template].text.replace("{question}", question)


def write_options(options: Sequence[str]) -> str:
    """The options of a choice question, each on a line of its own: 'A) red'. Nothing when they are only letters."""
    letters = [chr(ord("A") + i) for i in range(len(options))]
    if list(options) == letters:
        return ""
    return "".join(f"\n{letter}) {option}" for letter, option in zip(letters, options, strict=True))
