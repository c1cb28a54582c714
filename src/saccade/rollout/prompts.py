"""From samples to prompts: images decoded, text written by the task, both encoded for the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from saccade.data.images import load_image
from saccade.models.adapter import Adapter, EncodedPrompt
from saccade.models.forward import Features
from saccade.tasks import TASKS
from saccade.types import Sample


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt on its way through a step: what engines, groups and updates read of it."""

    sample: Sample | None
    """The question that it asks; None for a text that no sample stands behind."""
    encoded: EncodedPrompt
    images: tuple[Image.Image, ...] = ()
    """As read, before the processor resized them; servers get these, and the run's records keep some."""
    features: Features | None = None
    """Of its images, for every pass of one weights version; None lets each pass run the vision encoder."""

    @property
    def name(self) -> str:
        """What messages call it: its sample's id, or its hash."""
        return self.encoded.prompt_id if self.sample is None else self.sample.id


def prepare(adapter: Adapter, sample: Sample, template: str | None = None) -> Prompt:
    """Reads the images and encodes the prompt of the sample's task (or another wording). Errors name the sample."""
    task = TASKS.get(sample.task)
    if task is None:
        raise ValueError(f"sample {sample.id!r} names task {sample.task!r}; expected one of {', '.join(TASKS)}")
    try:
        images = tuple(load_image(source) for source in sample.images)
        return Prompt(sample, adapter.encode(task.prompt(sample, template), images), images)
    except (ValueError, OSError) as error:
        raise ValueError(f"sample {sample.id!r}: {error}") from error


def check_lengths(prompts: Sequence[Prompt], new_tokens: int, context: int) -> None:
    """ValueError for a prompt that leaves the model's context too little room; nothing is ever cut off a prompt."""
    for prompt in prompts:
        if len(prompt.encoded) + new_tokens > context:
            sizes = ", ".join("{} x {}".format(*frame.size_input) for frame in prompt.encoded.frames) or "none"
            raise ValueError(
                f"sample {prompt.name!r}: got a prompt of {len(prompt.encoded):,} tokens (images: {sizes}) and "
                f"{new_tokens:,} new tokens; the model's context holds {context:,}. Lower the largest size in the "
                "model's preprocessor_config.json, lower the stage's max_new_tokens, or leave the sample out"
            )
