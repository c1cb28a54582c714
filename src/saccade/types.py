"""The types shared by all packages: sample, completion, score, frame.

All are frozen; none imports torch. Boxes are xyxy. Ground-truth boxes are always in pixels of the original image; a
completion uses its model family's frame, which it carries as a `Frame`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

from saccade.faults import on_a_line

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 with x1 <= x2 and y1 <= y2; the frame is named where the box is stored."""

ImageSource = str | bytes | Image.Image
"""A path, the bytes of an image file, or a decoded image. `saccade.data.images.load_image` opens any of them."""

FrameName = Literal["pixels_resized", "pixels_original", "thousand", "thousand_yx", "bins_1024", "unit"]
Span = tuple[int, int]
"""Tokens from start up to but not including stop."""

FinishReason = Literal["stop", "length", "stop_string", "repetition"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation. A user's text has one `<image>` marker per image."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Frame:
    """The coordinate system of a reply for one image; sizes are (width, height) in pixels."""

    name: FrameName
    """pixels_resized: pixels of the model's input; thousand: 0-1000 of each side; bins_1024: the same of 1,024 bins, at
    most 1023; unit: 0-1 of each side. `_yx` writes y before x."""
    size_original: tuple[int, int]
    size_input: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about zero or more images with an answer that a rule can check.

    Sample("shelf-1", ("shelf.jpg",), "How many cups are there?", "3", task="count")
    """

    id: str
    images: tuple[ImageSource, ...]
    question: str
    """May contain `<image>` markers; without any, the images come first."""
    answer: Any
    """The gold in its task's format: str, number, letter, box (original pixels), or list of {"bbox_2d", "label"}."""
    task: str
    """Name in `saccade.tasks.TASKS`."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Options of a choice question (`options`: list of str), source, split, difficulty; never read by the adapter.
    `system` is the system turn, `turns` are the later turns of a conversation, each {"role", "content"}."""

    @property
    def box_image(self) -> int:
        """Which of its images the boxes refer to: `meta["image_index"]`, else the first."""
        return int(self.meta.get("image_index") or 0)

    @property
    def content(self) -> tuple[Any, ...]:
        """What it says, without where it is from and what its images show."""
        meta = {key: value for key, value in self.meta.items() if key not in ("place", "source")}
        return self.id, len(self.images), self.question, self.answer, self.task, meta

    @property
    def title(self) -> str:
        """Its name in messages, with its place where it has one: `train.jsonl:9: sample 'thin'`."""
        place = self.meta.get("place")
        return f"{on_a_line(place)}: sample {self.id!r}" if isinstance(place, str) else f"sample {self.id!r}"


def with_title(title: str, error: Exception) -> str:
    """An error about what has that title (`Sample.title`), which the error may have named already."""
    name, _, rest = str(error).partition(": ")
    return f"{title}: {rest if rest and title.endswith(name) else error}"


@dataclass(frozen=True, slots=True)
class Completion:
    """One reply of a model to a prompt. `logprobs` are the sampler's, one per token that the policy generated, under
    the sampling temperature.

    Completion("<think>1, 2, 3</think><answer>3</answer>")  # all that a reward needs
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish_reason: FinishReason = "stop"
    frames: tuple[Frame, ...] = ()
    """One per image of the prompt, in order."""
    weights_version: int = 0
    """`Policy.version` of the weights that generated it."""
    spans: tuple[Span, ...] | None = None
    """Ranges of `token_ids` that the policy generated, which are the loss tokens; the others came from elsewhere, such
    as a tool. None: all tokens."""

    @property
    def loss_tokens(self) -> int:
        """Number of tokens that the policy generated."""
        return len(self.token_ids) if self.spans is None else sum(stop - start for start, stop in self.spans)

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Score:
    """Result of a reward. A part is in [0, 1] (reward) or [-1, 0] (penalty); a rubric's total is the weighted sum.

    Score(0.31, "iou 0.31")
    """

    value: float
    reason: str | None = None
    """Why the score is below 1, as a short category: 'no answer tag', 'iou 0.31'."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Every part by name, unweighted (rubrics only)."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Reasons by part name (rubrics only)."""
    masked: str | None = None
    """Why the rollout is excluded from mean, std and loss denominator: 'truncated' where the stage masks truncated
    replies, or the failure. Never a reward of 0."""
    truncated: bool = False
    """True when it is masked because its stage excludes replies that hit the cap."""

    @property
    def failed(self) -> bool:
        """True when it is masked because of an internal failure or a failure of a user's reward."""
        return self.masked is not None and not self.truncated
