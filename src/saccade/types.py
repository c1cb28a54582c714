"""The nouns that every floor speaks: sample, completion, score, rollout, group.

All are frozen; none imports torch. Boxes are xyxy. Ground-truth boxes are always pixels of the original image; a
completion speaks in its model family's frame, which travels with it as a `Frame`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 with x1 <= x2 and y1 <= y2; the frame is named where the box is stored."""

ImageSource = str | bytes | Image.Image
"""A path, the bytes of an image file, or a decoded image. `saccade.data.images.load_image` opens any of them."""

FrameName = Literal["pixels_resized", "pixels_original", "thousand", "thousand_yx", "bins_1024", "unit"]
FinishReason = Literal["stop", "length", "stop_string", "repetition"]


@dataclass(frozen=True, slots=True)
class Frame:
    """What the numbers in a reply mean for one image; sizes are (width, height) in pixels."""

    name: FrameName
    """pixels_resized: pixels of the model's input; thousand: 0-1000 of each side; bins_1024: the same of 1,024 bins, at
    most 1023; unit: 0-1 of each side. `_yx` writes y before x."""
    size_original: tuple[int, int]
    size_input: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about zero or more images with an answer that a rule can check."""

    id: str
    images: tuple[ImageSource, ...]
    question: str
    """May hold `<image>` markers; without any, the images come first."""
    answer: Any
    """The gold in its task's form: str, number, letter, box (original pixels), or list of {"bbox_2d", "label"}."""
    task: str
    """Name in `saccade.tasks.TASKS`."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Options of a choice question (`options`: list of str), source, split, difficulty; never read by the adapter."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One reply of a model to a prompt. `logprobs` are the sampler's, one per token, under the sampling temperature."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish_reason: FinishReason = "stop"
    frames: tuple[Frame, ...] = ()
    """One per image of the prompt, in order."""
    weights_version: int = 0

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward says. A part in [0, 1] (reward) or [-1, 0] (penalty); a rubric's total is the weighted sum."""

    value: float
    reason: str | None = None
    """Why it is not full marks, in a few words that can be counted: 'no answer tag', 'iou 0.31'."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Every part by name, unweighted (rubrics only)."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Reasons by part name (rubrics only)."""
    masked: str | None = None
    """Set when our own code failed: the rollout leaves the mean, the std and the loss denominator; never a 0."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A scored completion. The advantage is 0 until the group is centred."""

    sample: Sample
    completion: Completion
    score: Score
    advantage: float = 0.0


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt with its G scored completions: the unit from sampling to gradient."""

    id: str
    sample: Sample
    rollouts: tuple[Rollout, ...]
    prompt: Any = None
    """The adapter's `EncodedPrompt` (token ids, positions, pixels) that all siblings share."""

    @property
    def rewards(self) -> list[float]:
        """Rewards of the rollouts that are not masked."""
        return [r.score.value for r in self.rollouts if r.score.masked is None]

    @property
    def has_signal(self) -> bool:
        """False when all advantages are 0, so the group moves nothing."""
        return any(r.advantage != 0.0 for r in self.rollouts)
