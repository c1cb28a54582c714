"""Models under test, local or behind an OpenAI-compatible server; nothing here imports torch."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from saccade.data.images import ImageError, image_sha, image_size, large_alone, load_image
from saccade.endpoint import ChatChoice, ChatResponse, Endpoint, EndpointError, Message, image_url
from saccade.endpoint.room import COPIES, LETTER, Room
from saccade.evaluation.config import Decoding
from saccade.geometry import smart_resize
from saccade.tasks.templates import IMAGE
from saccade.types import Completion, FinishReason, Frame, FrameName, Sample, Turn, with_title

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EvalQuestion:
    """A sample with the user turn sent to the model, and the seed of its replies."""

    sample: Sample
    text: str
    seed: int
    before: tuple[Turn, ...] = ()
    """The system turn, if there is one."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A question whose request failed; it gives no verdict on the model."""

    reason: str


Answers = list[Completion] | Failed


class Answerer(Protocol):
    """A model that answers questions."""

    whole_batches: bool
    """Replies may depend, by round-off, on the rest of the batch: a resumed run repeats an incomplete batch. Otherwise
    each question is asked by itself, and its item is kept as it arrives."""
    lanes: int
    """Questions asked at once where batches are not whole."""

    def answer(self, questions: Sequence[EvalQuestion], decoding: Decoding, n: int) -> list[Answers]:
        """n replies to each question, in order."""
        ...


def hashes(sample: Sample) -> tuple[str, ...]:
    """The names under which reports keep the images; none where one went away since it was asked about."""
    try:
        with large_alone(sample.images):
            return tuple(map(image_sha, sample.images))
    except ValueError as error:
        log.warning("%s; the report does not show it", with_title(sample.title, error))
        return ()


@dataclass(frozen=True, slots=True)
class ServedFrame:
    """What a served model's box numbers mean; only the user can specify it."""

    name: FrameName
    factor: int = 28
    min_pixels: int = 56 * 56
    max_pixels: int = 12_845_056
    """For pixels_resized: the resize of the server's processor."""

    def of(self, image: Image.Image) -> Frame:
        size = image.size
        if self.name == "pixels_resized":
            height, width = smart_resize(image.height, image.width, self.factor, self.min_pixels, self.max_pixels)
            size = (width, height)
        return Frame(self.name, image.size, size)


NEUTRAL: dict[str, float] = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Sampling options that change nothing. They are sent because a server fills in missing ones from the checkpoint's
generation_config.json (vLLM does): with top_k 1 of Qwen2.5-VL, sampled replies would be greedy ones."""
REJECTED = (400, 422)
"""HTTP statuses of a request with an option that the server does not know."""


class ServedModel:
    """A model on a server. Questions are sent in parallel, up to the endpoint's concurrency limit.

    A neutral option that the server refuses is not sent again; an option with an effect is never dropped.
    """

    whole_batches = False

    def __init__(
        self, endpoint: Endpoint, frame: ServedFrame | None = None, template_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """`template_kwargs` are options of the server's chat template."""
        self.endpoint, self.frame = endpoint, frame
        self.lanes = endpoint.limits.concurrency
        self.always = {"chat_template_kwargs": dict(template_kwargs)} if template_kwargs else {}
        self.refused: frozenset[str] = frozenset()
        """Neutral options that the server does not know."""
        self.requests: dict[str, dict[str, Any]] = {}
        """By decoding (greedy, sampled): the options of the last request that was answered, without its seed."""
        self._room = Room()

    def answer(self, questions: Sequence[EvalQuestion], decoding: Decoding, n: int) -> list[Answers]:
        """What a server does with one question, whatever it is, costs that question only."""
        with ThreadPoolExecutor(min(self.lanes, len(questions) or 1)) as pool:
            return list(pool.map(lambda question: self._kept(question, decoding, n), questions))

    def _kept(self, question: EvalQuestion, decoding: Decoding, n: int) -> Answers:
        try:
            return self._one(question, decoding, n)
        except CancelledError:
            return Failed("the run stopped while it waited")
        except Exception as error:
            log.exception("the reply to sample %s could not be read; it counts as not answered", question.sample.id)
            return Failed(f"{type(error).__name__}: {str(error)[:500]}")

    def _one(self, question: EvalQuestion, decoding: Decoding, n: int) -> Answers:
        before: list[Message] = [{"role": turn.role, "content": turn.text} for turn in question.before]
        seed = {} if decoding.greedy else {"seed": question.seed % 2**31}
        options = {"n": n, **decoding.request(), **self.always}
        try:
            texts = LETTER * (len(question.text) + sum(len(turn.text) for turn in question.before))
            with self._room.of(texts + _most_sent(question.sample)) as became:
                turn, frames = self._turn(question)
                became(texts + _sent(turn))
                reply = self._chat([*before, turn], options, seed, decoding)
        except EndpointError as error:
            return Failed(str(error))
        except ImageError as error:
            return Failed(with_title(question.sample.title, error))
        if len(reply.choices) != n:
            return Failed(f"the server returned {len(reply.choices)} replies, expected {n}")
        counted = min(reply.usage.completion_tokens // n, decoding.max_new_tokens)
        return [_completion(choice, counted, frames) for choice in reply.choices]

    def _turn(self, question: EvalQuestion) -> tuple[Message, tuple[Frame, ...]]:
        """The user turn, and what box numbers of the reply mean. Raises `ImageError`."""
        with large_alone(question.sample.images):
            images = tuple(load_image(source) for source in question.sample.images)
            frames = tuple(self.frame.of(image) for image in images) if self.frame else ()
            return _turn(question.text, images), frames

    def _chat(
        self, messages: list[Message], options: dict[str, Any], seed: dict[str, int], decoding: Decoding
    ) -> ChatResponse:
        """The response. After a rejection the neutral options that the server names are left out, else all of them;
        when that helps, for the rest of the run."""
        dropped: set[str] = set()
        while True:
            known = NEUTRAL.keys() - options.keys() - self.refused - dropped
            neutral = {key: NEUTRAL[key] for key in NEUTRAL if key in known}
            try:
                reply = self.endpoint.chat(messages, **options, **neutral, **seed)
            except EndpointError as error:
                if error.status not in REJECTED or not neutral:
                    raise
                dropped |= {key for key in neutral if re.search(rf"\b{key}\b", error.body)} or set(neutral)
                continue
            if new := dropped - self.refused:
                log.warning("the server refuses %s; not sent again", ", ".join(sorted(new)))
                self.refused |= new
            self.requests[decoding.name] = {**options, **neutral}
            return reply


def _most_sent(sample: Sample) -> int:
    """Bytes that the images of a request take at most, as PNG in base64. Raises `ImageError`."""
    sizes = [image_size(source, sys.maxsize) for source in sample.images]
    return COPIES * sum(4 * width * height for width, height in sizes)


def _sent(turn: Message) -> int:
    """Bytes that they do take."""
    parts = () if isinstance(turn["content"], str) else turn["content"]
    return COPIES * sum(len(part["image_url"]["url"]) for part in parts if "image_url" in part)


def _turn(text: str, images: Sequence[Image.Image]) -> Message:
    """A user turn with each image at its marker, as PNG data URLs."""
    if not images:
        return {"role": "user", "content": text}
    parts: list[dict[str, Any]] = []
    pieces = text.split(IMAGE)
    for piece, image in zip(pieces, [None, *images], strict=True):
        if image is not None:
            parts.append({"type": "image_url", "image_url": {"url": image_url(image)}})
        if piece.strip():
            parts.append({"type": "text", "text": piece.strip() if image is None else piece.lstrip("\n")})
    return {"role": "user", "content": parts}


_REASONS: dict[str | None, FinishReason] = {"length": "length"}


def _completion(choice: ChatChoice, tokens: int, frames: tuple[Frame, ...]) -> Completion:
    """The reply, with thought that the server returns separately put in front. `token_ids` has only the right
    length."""
    text = choice.text
    if choice.reasoning and "</think>" not in text:
        text = f"<think>{choice.reasoning}</think>{text}" if text.strip() else f"<think>{choice.reasoning}"
    if "</think>" in text and "<think>" not in text:
        text = f"<think>{text}"  # its chat template has opened the thought, as ours would (`EncodedPrompt.opened`)
    reason = _REASONS.get(choice.finish_reason, "stop")
    return Completion(text, (0,) * tokens, finish_reason=reason, frames=frames)
