"""Prompts on their way to the engine: a sample's images decoded and its text written and encoded."""

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
class PreparedPrompt:
    """A sample with everything that reading files and tokenising can give before the model runs."""

    sample: Sample
    encoded: EncodedPrompt
    images: tuple[Image.Image, ...]
    """As read, before the processor resized them; the run's records keep some."""


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """The prompts of one call of the engine, with the vision features that all passes of the step share."""

    name: str
    """Beginning of the groups' ids, unique in the run."""
    prompts: tuple[PreparedPrompt, ...]
    features: Features | None = None
    """Without gradients; None makes each pass run the tower."""


def prepare(adapter: Adapter, sample: Sample, template: str | None = None) -> PreparedPrompt:
    """Reads the images and encodes the prompt of the sample's task (or another wording). Errors name the sample."""
    task = TASKS.get(sample.task)
    if task is None:
        raise ValueError(f"sample {sample.id!r} names task {sample.task!r}; expected one of {', '.join(TASKS)}")
    try:
        images = tuple(load_image(source) for source in sample.images)
        return PreparedPrompt(sample, adapter.encode(task.prompt(sample, template), images), images)
    except (ValueError, OSError) as error:
        raise ValueError(f"sample {sample.id!r}: {error}") from error


def check_lengths(prompts: Sequence[PreparedPrompt], new_tokens: int, context: int) -> None:
    """ValueError for a prompt that leaves the model's context too little room; nothing is ever cut off a prompt."""
    for prompt in prompts:
        if len(prompt.encoded) + new_tokens > context:
            sizes = ", ".join("{} x {}".format(*frame.size_input) for frame in prompt.encoded.frames) or "none"
            raise ValueError(
                f"sample {prompt.sample.id!r}: got a prompt of {len(prompt.encoded):,} tokens (images: {sizes}) and "
                f"{new_tokens:,} new tokens; the model's context holds {context:,}. Lower the largest size in the "
                "model's preprocessor_config.json, lower the stage's max_new_tokens, or leave the sample out"
            )


def join_features(parts: Sequence[Features | None]) -> Features | None:
    """The features of several batches of one weights version as one; None when there are none."""
    present = [part for part in parts if part is not None]
    if not present:
        return None
    return Features(tuple(one for part in present for one in part.per_prompt), present[0].version)
