"""The chat protocol: messages with images, responses with their choices."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from saccade.types import ImageSource

Message = Mapping[str, Any]
"""{"role": "system" | "user" | "assistant", "content": text or a list of parts}, as in the OpenAI protocol."""

MOST_CHOICES, MOST_TOKENS = 1024, 10_000_000
"""Limits of a response; a token count beyond them is as good as none."""
LONGEST_REASON, LONGEST_NAME = 40, 1000
"""Characters that are kept of a reason of finishing and of the name of a model."""
_MAGIC = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp"}


@dataclass(frozen=True, slots=True)
class ChatChoice:
    """One of the n completions of a request."""

    text: str
    finish_reason: str | None = None
    reasoning: str | None = None
    """The separate reasoning field of the server (`reasoning_content` or `reasoning`)."""
    logprobs: Any = None
    """As sent by the server."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted by the server; 0 if not reported."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """The response to one request."""

    choices: tuple[ChatChoice, ...]
    usage: Usage
    model: str
    cached: bool = False
    attempts: int = 1
    seconds: float = 0.0
    """From the first attempt to the response, excluding the wait for a free slot; 0 when cached."""

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.choices[0].text


def user(text: str, images: Sequence[ImageSource] = ()) -> Message:
    """A user turn: the images first, then the text."""
    if not images:
        return {"role": "user", "content": text}
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": image_url(image)}} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def image_url(image: ImageSource) -> str:
    """The image as a data URL. Files and bytes are sent unchanged, a decoded image as PNG.

    Raises ValueError for bytes that are not JPEG, PNG, GIF or WebP, OSError for a file that cannot be read.
    """
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        data = buffer.getvalue()
    else:
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
    kind = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)
    if kind is None:
        name = "bytes" if isinstance(image, bytes) else image
        raise ValueError(
            f"{name}: starts with {data[:8]!r}, expected JPEG, PNG, GIF or WebP; open it with PIL and pass the image"
        )
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def parse_response(body: Any, longest: int | None = None) -> ChatResponse:
    """Parses the JSON of a chat completion. Raises ValueError naming the missing field, and for a text or reasoning of
    more than `longest` characters."""
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices:
        raise ValueError("the response has no 'choices'")
    if len(choices) > MOST_CHOICES:
        raise ValueError(f"the response has {len(choices):,} 'choices', expected {MOST_CHOICES:,} at most")
    usage, model = body.get("usage"), body.get("model")
    counts = [usage.get(k) if isinstance(usage, dict) else 0 for k in ("prompt_tokens", "completion_tokens")]
    places: list[Any] = [choice.get("index") if isinstance(choice, dict) else None for choice in choices]
    if all(type(place) is int for place in places) and sorted(places) == list(range(len(places))):
        choices = [choice for _, choice in sorted(zip(places, choices, strict=True), key=lambda pair: pair[0])]
    parsed = tuple(_parse_choice(choice, index) for index, choice in enumerate(choices))
    length = max(max(len(one.text), len(one.reasoning or "")) for one in parsed)
    if longest is not None and length > longest:
        raise ValueError(f"a reply of {length:,} characters is more than max_tokens allows")
    return ChatResponse(
        parsed,
        Usage(*(count if type(count) is int and 0 <= count <= MOST_TOKENS else 0 for count in counts)),
        _whole(model[:LONGEST_NAME]) if isinstance(model, str) else "",
    )


def _whole(text: str) -> str:
    """Text that can be written as UTF-8: half of a surrogate pair, from a reply cut inside an emoji, is replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _parse_choice(choice: Any, index: int) -> ChatChoice:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ValueError(f"choice {index} of the response has no 'message'")
    text = message.get("content")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"the content of choice {index} is a {type(text).__name__}, expected a string")
    reasoning, reason = message.get("reasoning_content") or message.get("reasoning"), choice.get("finish_reason")
    return ChatChoice(
        _whole(text or ""),
        _whole(reason[:LONGEST_REASON]) if isinstance(reason, str) else None,
        _whole(reasoning) if isinstance(reasoning, str) else None,
        choice.get("logprobs"),
    )
