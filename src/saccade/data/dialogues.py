"""Formats whose rows are conversations: VLM-R1, LLaVA and ShareGPT."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from saccade.data import records
from saccade.data.files import table_rows
from saccade.data.golds import option_texts, parse_literal, pose
from saccade.data.questions import place_pictures
from saccade.data.records import MARKER, Item, Reading, Row
from saccade.faults import listed, shown
from saccade.types import Sample, Turn

METHOD_TASKS: dict[str, str] = {
    "mcq": "choice",
    "yes_no": "yes_no",
    "math": "free_form",
    "numeric": "free_form",
    "all_match": "text",
    "map": "detect",
    "od_ap": "detect",
    "od_ap50": "detect",
    "odLength": "detect",
    "weighted_sum": "detect",
}
"""VLM-R1's `accu_reward_method` -> task. 'llm' (a judge) is unsupported; 'default' infers it from the answer."""
METHOD = "accu_reward_method"
_TOOL_ROLES = ("tool", "tools", "function", "function_call", "observation", "tool_call", "tool_response", "ipython")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TAGGED = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_CONCLUSION = re.compile(r"<CONCLUSION>((?:(?!</?CONCLUSION>).)*)</CONCLUSION>", re.DOTALL)
_PREFIX = re.compile(r"^\s*(?:#+\s*)?(?:the\s+)?final\s+answer(?:\s+is)?\s*:\s*", re.IGNORECASE)
_LAST_LINE = re.compile(
    r"^[^\S\n]*+(?:#+\s*+)?(?:the\s+)?final\s+answer(?:\s+is)?\s*:\s*(\S.*)$", re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True)
class Dialogue:
    """A conversation: its first question and answer, and what is around them."""

    question: str
    reply: Any
    """Text; in VLM-R1 also numbers and boxes."""
    system: str | None
    later: tuple[Turn, ...]
    """The turns after the first two."""
    pictures: list[Any]
    """Images that the parts of all questions hold themselves."""

    @property
    def meta(self) -> dict[str, Any]:
        """The turns besides the first two as `Sample.meta` has them."""
        turns = [{"role": turn.role, "content": turn.text} for turn in self.later]
        return ({"system": self.system} if self.system else {}) | ({"turns": turns} if turns else {})

    def first_images(self, images: int) -> int:
        """Images of the question, of all images of the row. ValueError when the markers of all turns are others."""
        later, first = sum(turn.text.count(MARKER) for turn in self.later), self.question.count(MARKER)
        if later and (later > images or first not in (0, images - later)):
            raise ValueError(
                f"the conversation has {first + later} {MARKER} markers for {images} images; expected one each"
            )
        return images - later


def vlm_r1(reading: Reading) -> Iterator[Item]:
    """Rows of VLM-R1: `image` (a name or a list), `conversations` (question, answer), `accu_reward_method`.

    The columns `task`, `answer` and `meta`, written by `saccade world make`, take precedence.
    """

    def read(row: Row, place: str) -> Sample:
        if "image" not in row and "images" not in row:
            raise ValueError(
                f"field 'image' is missing; the row has {listed(row)} (for a text-only row set \"image\": [])"
            )
        names = row.get("image") or row.get("images")
        dialogue = read_dialogue(turns_in(row, "conversations"), records.system_of(row))
        records.refuse_unsupported(row, dialogue.question)
        images = records.images_of(names, reading) if names else ()
        method = row.get(METHOD)
        named = records.field(row, "task", str) if row.get("task") else None
        task = named or _task_of(method or "default", reading.task)
        answer = row["answer"] if "answer" in row else _answer(dialogue.reply)
        meta = {"place": place} | dialogue.meta | ({METHOD: method} if method else {})
        meta |= records.field(row, "meta", dict) if "meta" in row else {}
        options = option_texts(meta.pop("options", None) or records.options_of(row))
        question, options = place_pictures(dialogue.question, options, dialogue.first_images(len(images)))
        return pose(str(row.get("id", place)), images, question, answer, task, meta, options)

    return records.each(table_rows(reading), read)


def llava(reading: Reading) -> Iterator[Item]:
    """Rows of LLaVA and ShareGPT, in both schemas of Vision-R1: `conversations` or `messages` with `from`, `value` or
    `role`, `content`; `image` or `images`.

    The reply is kept in `meta.response`, for supervised fine-tuning. The gold answer is the content of its answer tag,
    its <CONCLUSION> or its line 'Final Answer:', else the whole reply.
    """

    return records.each(table_rows(reading), lambda row, place: read_conversation(row, place, reading))


def read_conversation(row: Row, place: str, reading: Reading) -> Sample:
    """The sample of a conversation: its first question, and the later turns in `meta.turns`."""
    turns = turns_in(row, "messages" if "messages" in row else "conversations")
    dialogue = read_dialogue(turns, records.system_of(row))
    records.refuse_unsupported(row, dialogue.question)
    if not isinstance(dialogue.reply, str):
        raise ValueError(f"the reply is {shown(dialogue.reply)}; expected a text (for numbers use source vlm_r1)")
    names = named_images(row, dialogue.pictures)
    if not names and MARKER in dialogue.question:
        raise ValueError(f"field 'image' is missing, and the question has a {MARKER}; the row has {listed(row)}")
    images = records.images_of(names, reading) if names else ()
    first = dialogue.first_images(len(images))
    question, options = place_pictures(dialogue.question, option_texts(records.options_of(row)), first)
    answer = final_answer(dialogue.reply)
    meta: dict[str, Any] = {"place": place, "response": dialogue.reply} | dialogue.meta
    return pose(str(row.get("id", place)), images, question, answer, reading.task, meta, options)


# --------------------------------------------------------------------------------------------------------------- parts


def read_dialogue(turns: list[Any], system: Any = None) -> Dialogue:
    """The parts of a conversation. ValueError for roles out of order, and for tools.

    `system` is the row's own field for the system turn, as in ShareGPT; a system turn in `turns` takes precedence.
    """
    expected = "a question and an answer, each {'from', 'value'} or {'role', 'content'}"
    parsed = [(_role(turn), _content(turn)) for turn in turns if isinstance(turn, dict)]
    if len(parsed) != len(turns):
        raise ValueError(f"field 'conversations': got {shown(turns)}, expected {expected}")
    if parsed and parsed[0][0] == "system":
        system = parsed.pop(0)[1]
    if system is not None and not isinstance(system, str):
        raise ValueError(f"the system turn is {shown(system)}; expected a text")
    if len(parsed) < 2 or not isinstance(parsed[0][1], str) or parsed[1][1] is None:
        raise ValueError(f"field 'conversations': got {shown(turns)}, expected {expected}")
    for number, (role, _) in enumerate(parsed):
        wanted = ("user", "assistant")[number % 2]
        if role not in (None, wanted):
            roles = [one for one, _ in parsed]
            raise ValueError(
                f"field 'conversations': the roles are {shown(roles[: number + 1])}, expected the user's turn, then "
                "the reply, and so on"
            )
    pictures = [picture for turn in turns for picture in pictures_in(turn)]
    return Dialogue(parsed[0][1], parsed[1][1], system or None, tuple(_later(parsed[2:])), pictures)


def _later(parsed: list[tuple[str | None, Any]]) -> Iterator[Turn]:
    for number, (_, text) in enumerate(parsed):
        if not isinstance(text, str):
            raise ValueError(f"field 'conversations': turn {number + 3} is {shown(text)}, expected a text; remove it")
        records.refuse_unsupported({}, text)
        yield Turn("assistant" if number % 2 else "user", text)


def final_answer(text: str) -> str:
    """The answer of a written reply, without 'Final Answer:'."""
    for pattern in (_TAGGED, _CONCLUSION, _LAST_LINE):
        if found := pattern.findall(text):
            return _PREFIX.sub("", found[-1]).strip()
    return text.strip()


def _role(turn: dict[str, Any]) -> str | None:
    name = turn.get("from", turn.get("role"))
    if name in _TOOL_ROLES or turn.get("tool_calls") or turn.get("function_call"):
        raise ValueError(
            f"field 'conversations': got a turn of {shown(name)} with tools; {records.UNSUPPORTED['tool']}"
        )
    if turn.get("weight", 1) == 0 or turn.get("loss", True) in (False, 0) or turn.get("train", True) is False:
        raise ValueError(
            f"field 'conversations': a turn of {shown(name)} is marked as not to be learned; remove the row"
        )
    if name is not None and (not isinstance(name, str) or name not in _ROLES):
        raise ValueError(f"field 'conversations': got the role {shown(name)}, expected one of {', '.join(_ROLES)}")
    return None if name is None else _ROLES[name]


def _content(turn: dict[str, Any]) -> Any:
    return flat(turn.get("value", turn.get("content")))


def flat(content: Any) -> Any:
    """The content of a turn; a list of parts, as in chat APIs, becomes markers and text."""
    if not (isinstance(content, list) and content and all(isinstance(p, dict) and "type" in p for p in content)):
        return content
    if unknown := [str(part["type"]) for part in content if "text" not in part and part["type"] not in _MARKERS]:
        raise ValueError(f"field 'conversations': got a part of type {shown(unknown[0])}, expected text or image")
    for part in content:
        if part["type"] not in _MARKERS and not isinstance(part["text"], str):
            raise ValueError(f"field 'conversations': the text of a part is {shown(part['text'])}")
    return "".join(_MARKERS.get(str(part["type"]), str(part.get("text", ""))) for part in content)


_MARKERS = {
    **dict.fromkeys(("image", "image_url", "input_image"), MARKER),
    **dict.fromkeys(("video", "video_url", "input_video"), records.VIDEO),
    **dict.fromkeys(("audio", "input_audio", "audio_url"), records.AUDIO),
}
"""Type of a part that is no text -> its marker."""


def pictures_in(turn: dict[str, Any]) -> list[Any]:
    """The images that the parts of a turn hold: Qwen's `{"type": "image", "image": ..}` and the forms of chat APIs."""
    content = turn.get("value", turn.get("content"))
    found = []
    for part in content if isinstance(content, list) else []:
        if isinstance(part, dict) and _MARKERS.get(str(part.get("type"))) == MARKER:
            value = next((part[key] for key in _PICTURE_KEYS if part.get(key)), None)
            if isinstance(value, dict) and not {"bytes", "path"} & value.keys():
                value = next((value[key] for key in ("url", "data") if value.get(key)), value)
            found += [value] if value is not None else []
    return found


_PICTURE_KEYS = ("image", "image_url", "url", "path", "base64", "source")


def named_images(row: Row, pictures: Sequence[Any]) -> Any:
    """The images of a row: of its field, or those that the parts of its turns hold. ValueError when both name files,
    but not the same."""
    value = parse_literal(row.get("images") or row.get("image"))
    names = value if isinstance(value, list) else [value]
    if value and pictures and names != list(pictures) and all(isinstance(one, str) for one in (*names, *pictures)):
        raise ValueError(f"the row names the images {shown(names)}, its turns {shown(list(pictures))}")
    return value or list(pictures)


def turns_in(row: Row, name: str) -> list[Any]:
    """The turns of a field, a list or the JSON text of one."""
    value = parse_literal(row.get(name))
    return records.field(row | {name: value} if name in row else row, name, list)


def _task_of(method: Any, given: str | None) -> str | None:
    """The task of VLM-R1's reward method, else the given one; None leaves it to the answer."""
    if isinstance(method, str) and method in METHOD_TASKS:
        return METHOD_TASKS[method]
    if method != "default" and given is None:
        known = ", ".join(METHOD_TASKS)
        raise ValueError(
            f"accu_reward_method {shown(method)} has no matching task; expected one of {known}, or set 'task'"
        )
    return given


def _answer(reply: Any) -> Any:
    """The gold answer of an answer turn: its final answer if it is a text."""
    return final_answer(reply) if isinstance(reply, str) else reply
