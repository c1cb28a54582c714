"""Chat templates: where a checkpoint keeps its own, what it writes for a conversation, and how it begins a reply."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, TemplateError, nodes

from saccade.types import Turn

MARKER = "<image>"
UNSUPPORTED = {"<video>": "videos", "<audio>": "audio"}
"""Markers of what no adapter encodes."""
_OPENED = re.compile(r"<think>\s*\Z")
_REOPENED = re.compile(r"\A\s*<think>\n?")


def processor_template(files: Mapping[str, bytes]) -> str | None:
    """The template of a checkpoint's processor files, in the order of transformers; None where it is only the
    tokenizer's. For a vision-language model it takes precedence: the tokenizer may still have the template of its
    text-only language model."""
    for name in ("processor_config.json", "chat_template.json"):
        held = json.loads(files[name]).get("chat_template") if name in files else None
        if isinstance(held, list):
            held = {one["name"]: one["template"] for one in held}
        if isinstance(held, dict):
            held = held.get("default")
        if held is not None:
            return str(held)
    return files["chat_template.jinja"].decode() if "chat_template.jinja" in files else None


def option_names(template: str) -> set[str]:
    """The variables that a template reads without setting them, such as `enable_thinking`."""
    found = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_without_generation_tags(template))
    stored = {name.name for name in found.find_all(nodes.Name) if name.ctx != "load"}
    read = {name.name for name in found.find_all(nodes.Name) if name.ctx == "load"}
    return read - stored - {"messages", "add_generation_prompt", "raise_exception", "strftime_now", "namespace"}


def _without_generation_tags(template: str) -> str:
    """transformers' own statement, which marks what an assistant wrote."""
    return re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", template)


def refuse_unreadable(turns: Sequence[Turn], num_images: int, reserved: Sequence[str]) -> None:
    """ValueError for turns that no template makes readable: markers of what no adapter encodes, reserved tokens, and
    `<image>` markers of another number than the images or outside the user's turns."""
    shown = repr(turns[-1].text[:80])
    for turn in turns:
        for marker, name in UNSUPPORTED.items():
            if marker in turn.text:
                raise ValueError(f"prompt contains {marker}; {name} are not supported, use images: {shown}")
        for token in reserved:
            if token != MARKER and token in turn.text:
                raise ValueError(f"prompt contains the reserved token {token}; remove it from the data: {shown}")
        if turn.role != "user" and MARKER in turn.text:
            raise ValueError(f"the {turn.role}'s turn contains {MARKER}; images belong to the user's turns: {shown}")
    markers = sum(turn.text.count(MARKER) for turn in turns)
    if markers != num_images:
        raise ValueError(f"prompt has {markers} '{MARKER}' markers but {num_images} images: {shown}")


def write_chat(tokenizer: Any, turns: Sequence[Turn], options: Mapping[str, Any]) -> str:
    """The conversation up to the start of the assistant's turn. ValueError when the template refuses it or drops a part
    of it, such as a system turn that the family does not have."""
    messages = [{"role": turn.role, "content": _content(turn.text)} for turn in turns]
    try:
        chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        roles = ", ".join(turn.role for turn in turns)
        raise ValueError(
            f"the checkpoint's chat template cannot write a conversation of {roles}: {type(error).__name__}: {error}"
        ) from error
    for turn in turns:
        for piece in turn.text.rpartition("</think>")[2].split(MARKER):
            if piece.strip() not in chat:
                raise ValueError(
                    f"the checkpoint's chat template drops text of the {turn.role}'s turn: {piece.strip()[:80]!r}; "
                    "remove it from the data or the recipe, or use a template that supports it"
                )
    return chat


def _content(text: str) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    for i, piece in enumerate(text.split(MARKER)):
        if i:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def opened_by(chat: str) -> str:
    """The `<think>` with which the template already begins the reply, and the space after it; or nothing."""
    found = _OPENED.search(chat)
    return found[0] if found else ""


def after_opened(reply: str, opened: str) -> str:
    """The part of a complete reply that the model writes itself where the prompt ends with `opened`.

    ValueError for a reply that never closes the thought that the template has opened.
    """
    if not opened:
        return reply
    again = _REOPENED.match(reply)
    if again is not None:
        return reply[again.end() :]
    if "</think>" in reply:
        return reply
    raise ValueError(
        f"the chat template opens {opened.strip()}, and the reply has no thought to close it: {reply[:60]!r}; write "
        "the reply as <think>..</think>.., or turn thinking off, for many templates by model.template_kwargs: "
        "{enable_thinking: false}"
    )
