"""From samples to prompts: images decoded, text built by the task, both encoded for the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saccade.data.held_images import loaded_and_held
from saccade.data.images import large_alone
from saccade.models.adapter import Adapter, EncodedPrompt
from saccade.models.forward import Features
from saccade.tasks import TASKS
from saccade.tasks.conversation import turns_before
from saccade.types import ImageSource, Sample, with_title


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, as used by engines, groups and updates during a step."""

    sample: Sample | None
    """Its sample; None for a text without one."""
    encoded: EncodedPrompt
    images: tuple[ImageSource, ...] = ()
    """The original images, before the processor resizes them, for `load_image`: large ones as files. Sent to servers,
    and some are saved with the run."""
    features: Features | None = None
    """Vision features, valid for one weights version; None lets each pass run the vision encoder."""

    @property
    def name(self) -> str:
        """Name for messages: the sample's id, or the prompt's hash."""
        return self.encoded.prompt_id if self.sample is None else self.sample.id


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """What a prompt may have when its turn comes; its images may have changed since the run began."""

    tokens: int
    """The model's context without the longest reply of any stage."""
    pixels: int
    """Of an image."""


def prepare(
    adapter: Adapter,
    sample: Sample,
    template: str | None = None,
    system_prompt: str | None = None,
    limits: PromptLimits | None = None,
) -> Prompt:
    """Reads the images and encodes the prompt of the sample's task (or another template), after the system turn if
    there is one. Errors name the sample."""
    task = TASKS.get(sample.task)
    if task is None:
        raise ValueError(f"sample {sample.id!r} names task {sample.task!r}; expected one of {', '.join(TASKS)}")
    try:
        with large_alone(sample.images):
            images, held = loaded_and_held(sample.images, limits and limits.pixels)
            encoded = adapter.encode(task.prompt(sample, template), images, before=turns_before(sample, system_prompt))
            del images
        if limits is not None and len(encoded) > limits.tokens:
            raise ValueError(f"the prompt has {len(encoded):,} tokens now, expected {limits.tokens:,} at most")
        return Prompt(sample, encoded, held)
    except (ValueError, OSError) as error:
        raise ValueError(with_title(sample.title, error)) from error


def check_lengths(prompts: Sequence[Prompt], new_tokens: int, context: int) -> None:
    """ValueError for a prompt that leaves too little of the model's context; prompts are never truncated."""
    for prompt in prompts:
        if len(prompt.encoded) + new_tokens > context:
            sizes = ", ".join("{} x {}".format(*frame.size_input) for frame in prompt.encoded.frames) or "none"
            raise ValueError(
                f"sample {prompt.name!r}: got a prompt of {len(prompt.encoded):,} tokens (images: {sizes}) and "
                f"{new_tokens:,} new tokens; the model's context holds {context:,}. Set model.max_pixels, lower the "
                "stage's max_new_tokens, or remove the sample"
            )
