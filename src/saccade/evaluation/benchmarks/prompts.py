"""Wordings that several benchmarks share. A wording never changes under its id."""

from __future__ import annotations

from collections.abc import Callable

from saccade.evaluation.benchmarks.benchmark import Prompt
from saccade.tasks.templates import IMAGE, TEMPLATES, write_options, write_prompt
from saccade.types import Sample


def with_images(sample: Sample, text: str) -> str:
    """The text with one marker per image: unchanged if it has markers, else with all images in front."""
    if IMAGE not in text:
        return IMAGE * len(sample.images) + text
    if text.count(IMAGE) != len(sample.images):
        raise ValueError(
            f"sample {sample.id!r}: got {text.count(IMAGE)} {IMAGE} markers for {len(sample.images)} images; expected "
            "one per image, or none"
        )
    return text


def asking(id: str, ending: str = "", options: bool = True) -> Prompt:
    """Question, lettered options where there are any, and `ending`."""

    def write(sample: Sample) -> str:
        choices = write_options(sample.meta.get("options") or ()) if options else ""
        return with_images(sample, sample.question + choices + ending)

    return Prompt(id, write)


def template(name: str) -> Prompt:
    """A template of training, options and all."""
    return Prompt(TEMPLATES[name].id, lambda sample: write_prompt(sample, name))


def around(prompt: Prompt, name: str | None) -> Prompt:
    """The prompt inside a template of training; `None` leaves it unchanged."""
    if name is None or TEMPLATES[name].text == "{question}":
        return prompt
    outer = TEMPLATES[name]
    write: Callable[[Sample], str] = lambda sample: outer.text.replace("{question}", prompt.write(sample))  # noqa: E731
    return Prompt(f"{prompt.id}+{outer.id}", write)


SHORT = "\nAnswer with a single word or phrase."
BOXED = "\nReason step by step and put the final answer in \\boxed{}."
LETTER = "\nAnswer with the letter of the right option alone."
