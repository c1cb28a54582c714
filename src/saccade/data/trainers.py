"""Rows as other trainers hold them: TRL, verl and EasyR1, ms-swift, GUI-R1."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from saccade.data import records
from saccade.data.dialogues import final_answer, flat, named_images, pictures_in, read_conversation, turns_in
from saccade.data.files import table_rows
from saccade.data.golds import boxes_of, option_texts, parse_literal, pose
from saccade.data.images import image_size
from saccade.data.questions import place_pictures
from saccade.data.records import BoxError, Item, Reading, Row, text_of
from saccade.faults import listed, shown
from saccade.types import ImageSource, Sample

GOLDS = ("answer", "ground_truth", "solution", "label")
"""Columns of TRL that hold the gold, in this order: a `solution` beside an `answer` is the way to it."""
KEPT = ("data_source", "ability", "level", "group", "ui_type")
"""Columns that are kept in meta."""
CLICKS = ("click", "left_click", "tap", "long_press", "double_click", "moveto")
"""Actions of GUI-R1 whose answer is a place."""


def trl(reading: Reading) -> Iterator[Item]:
    """Rows of TRL: `prompt` (a text or messages), `images` or `image`, and the gold in `answer`,
    `ground_truth`, `solution` or `label`; `completion` is the reply that SFT learns."""

    def read(row: Row, place: str) -> Sample:
        asked, reply = _asked(row.get("prompt"), "prompt"), row.get("completion")
        response = reply if reply is None or isinstance(reply, str) else _asked(reply, "completion", "assistant").text
        gold = next((row[key] for key in GOLDS if row.get(key) not in (None, "")), None)
        if gold is None and response is None:
            raise ValueError(
                f"there is no gold: expected one of {', '.join(GOLDS)}, or completion; the row has {listed(row)}"
            )
        gold = final_answer(str(response)) if gold is None else _untagged(gold)
        return _sample(row, place, reading, asked, gold, response)

    return records.each(table_rows(reading), read)


def verl(reading: Reading) -> Iterator[Item]:
    """Rows of verl and of EasyR1's newer files: `prompt` (messages), `images`, and the gold in
    `reward_model.ground_truth` (or `ground_truth`, `answer`); `extra_info.index` is the id."""

    def read(row: Row, place: str) -> Sample:
        asked, model = _asked(row.get("prompt"), "prompt"), row.get("reward_model")
        gold = model.get("ground_truth") if isinstance(model, dict) else None
        gold = next((one for one in (gold, row.get("ground_truth"), row.get("answer")) if one not in (None, "")), None)
        if gold is None:
            raise ValueError(f"field 'reward_model.ground_truth' is missing; the row has {listed(row)}")
        info = row.get("extra_info") if isinstance(row.get("extra_info"), dict) else {}
        index = (info or {}).get("index")
        sample = _sample(row, place, reading, asked, _untagged(gold))
        part = (info or {}).get("split", row.get("data_source", ""))
        return sample if index is None else replace(sample, id=f"{part}/{index}")

    return records.each(table_rows(reading), read)


def ms_swift(reading: Reading) -> Iterator[Item]:
    """Rows of ms-swift: `messages` (or `query`, `response`, `system`), `images`, the gold in `solution`, else in the
    reply.

    `objects` fills `<ref-object>` with its names and `<bbox>` with its boxes, which are pixels unless `bbox_type` is
    norm1 or norm1000. A reply with `<bbox>` gives the gold but no reply to learn, since a reply's boxes are in the
    model's frame: SFT learns such rows with `reply: gold`."""

    def read(row: Row, place: str) -> Sample:
        if row.get("messages"):
            turns = turns_in(row, "messages")
        else:
            turns = [*_earlier(row.get("history")), {"role": "user", "content": records.field(row, "query", str)}]
            turns += [{"role": "assistant", "content": row["response"]}] if row.get("response") else []
        replies = sum(isinstance(one, dict) and one.get("role") == "assistant" for one in turns)
        gold = next((row[key] for key in GOLDS[:3] if row.get(key) not in (None, "")), None)
        if replies > 1 and gold is None and not row.get("objects"):
            return read_conversation(row | {"messages": turns}, place, reading)
        last = turns[-1] if turns and isinstance(turns[-1], dict) else {}
        response = text_of(flat(last.get("content")), "the reply") if last.get("role") == "assistant" else None
        asked = _asked(turns[:-1] if response is not None else turns, "messages")
        original = response
        question, response, boxes = _filled(row, asked.text, response, _images(row, asked, reading))
        asked = replace(asked, text=question, system=asked.system or records.system_of(row))
        if gold is None:
            if response is None:
                raise ValueError(f"there is no gold: expected 'solution' or a reply; the row has {listed(row)}")
            gold = final_answer(response) if boxes is None else boxes
        response = response if response is None or "<bbox>" not in (original or "") else None  # boxes have no frame yet
        return _sample(row, place, reading, asked, _untagged(gold), response)

    return records.each(table_rows(reading), read)


def gui_r1(reading: Reading) -> Iterator[Item]:
    """Rows of GUI-R1: `instruction`, `image`, `gt_action`, `gt_bbox` as shares of the image (a box, or a point).

    Clicks become `point`: the answer must be in the box, or within a hundredth of the image of the point. Other actions
    (typing, scrolling) have no place as their answer and are refused.
    """

    def read(row: Row, place: str) -> Sample:
        action = str(row.get("gt_action", "click")).strip().lower()
        if action not in CLICKS:
            raise ValueError(f"gt_action is {shown(action)}; only clicks can be trained ({', '.join(CLICKS)})")
        images = _images(row, Asked(""), reading)
        if len(images) != 1:
            raise ValueError(f"got {len(images)} images, expected one screenshot")
        history = str(row.get("history") or "").strip()
        question = records.field(row, "instruction", str).strip()
        if history and history.lower() not in ("none", "null"):
            question = f"{question}\nActions so far: {history}"
        box = _share_box(row.get("gt_bbox"), image_size(images[0]))
        question = f"{question}\nWhere do you click next? Answer with the point."
        return _sample(row, place, replace(reading, task=reading.task or "point"), Asked(question), list(box))

    return records.each(table_rows(reading), read)


# --------------------------------------------------------------------------------------------------------------- parts


@dataclass(frozen=True)
class Asked:
    """What a row asks."""

    text: str
    system: str | None = None
    pictures: tuple[Any, ...] = ()
    """Images that the parts of the turn hold."""


def _sample(row: Row, place: str, reading: Reading, asked: Asked, gold: Any, response: str | None = None) -> Sample:
    records.refuse_unsupported(row, asked.text)
    images = _images(row, asked, reading)
    question, options = place_pictures(asked.text, option_texts(records.options_of(row)), len(images))
    meta: dict[str, Any] = {"place": place} | {key: row[key] for key in KEPT if row.get(key)}
    system = asked.system or records.system_of(row)
    meta |= {key: text_of(text, f"the {key}") for key, text in (("system", system), ("response", response)) if text}
    return pose(str(row.get("id", place)), images, question, gold, reading.task, meta, options)


def _asked(turns: Any, field: str, role: str = "user") -> Asked:
    """What a prompt asks: a text, or messages of which one is the user's."""
    turns = parse_literal(turns)
    if isinstance(turns, str) and turns.strip():
        return Asked(turns)
    if not isinstance(turns, list) or not turns or not all(isinstance(one, dict) for one in turns):
        raise ValueError(f"field '{field}': got {shown(turns)}, expected a text or messages {{'role', 'content'}}")
    systems = [one for one in turns if one.get("role") in ("system", "developer")]
    others = [one for one in turns if one.get("role") not in ("system", "developer")]
    if len(others) != 1 or others[0].get("role") != role or len(systems) > 1:
        roles = listed([one.get("role") for one in turns])
        raise ValueError(
            f"field '{field}': the roles are {roles}; expected one {role} turn, perhaps after a system turn (several "
            "turns are not supported here; source llava reads conversations)"
        )
    text = flat(others[0].get("content"))
    if not isinstance(text, str):
        raise ValueError(f"field '{field}': the content is {shown(text)}, expected a text or parts with a type")
    system = text_of(flat(systems[0].get("content")), "the system turn") if systems else None
    return Asked(text, system, tuple(pictures_in(others[0])))


def _images(row: Row, asked: Asked, reading: Reading) -> tuple[ImageSource, ...]:
    value = named_images(row, asked.pictures)
    return records.images_of(value, reading) if value else ()


def _untagged(gold: Any) -> Any:
    """The inside of the answer tag of a gold, where it has one."""
    return records.untagged(gold)


def _filled(
    row: Row, question: str, response: str | None, images: Sequence[ImageSource]
) -> tuple[str, str | None, Any]:
    """Question and reply of ms-swift with names for `<ref-object>` and pixel boxes for `<bbox>`, and the boxes of a
    reply that has words around them."""
    objects = parse_literal(row.get("objects"))
    if not objects:
        return question, response, None
    if not isinstance(objects, dict):
        raise ValueError(f"field 'objects': got {shown(objects)}, expected an object with ref and bbox")
    names = list(map(str, objects.get("ref") or []))
    boxes = [_pixels(box, objects, images) for box in objects.get("bbox") or []]
    texts = [question, response or ""]
    waiting = {"<ref-object>": names, "<bbox>": [json.dumps(box) for box in boxes]}
    for mark, values in waiting.items():
        if sum(text.count(mark) for text in texts) > len(values):
            raise ValueError(f"the text has more {mark} than 'objects' has values ({len(values)})")
        left = iter(values)
        for i, text in enumerate(texts):
            first, *parts = text.split(mark)
            texts[i] = first + "".join(next(left) + part for part in parts)
    plain = not response or "<bbox>" not in response or boxes_of(final_answer(texts[1])) is not None
    gold = None if plain else _boxes_of_reply(question, str(response), names, boxes)
    return texts[0], texts[1] if response is not None else None, gold


def _boxes_of_reply(question: str, reply: str, names: Sequence[str], boxes: Sequence[list[float]]) -> Any:
    """The gold of a reply with `<bbox>`: its box, or its boxes with the names in front of them."""
    before = names[: question.count("<ref-object>")]
    waiting, left = iter(names[len(before) :]), iter(boxes[question.count("<bbox>") :])
    label, found = before[-1] if before else None, []
    for mark in re.findall("<ref-object>|<bbox>", reply):
        if mark == "<bbox>":
            found.append({"bbox_2d": next(left), "label": label})
        else:
            label = next(waiting)
    if len(found) > 1 and any(one["label"] is None for one in found):
        raise ValueError("the reply has several <bbox> without a <ref-object>; write the gold into 'solution'")
    return found if len(found) > 1 else found[0]["bbox_2d"]


def _earlier(history: Any) -> list[Any]:
    """The turns of ms-swift's `history`, pairs of a question and its reply."""
    pairs = parse_literal(history) or []
    if not isinstance(pairs, list) or not all(isinstance(one, list | tuple) and len(one) == 2 for one in pairs):
        raise ValueError(f"field 'history' is {shown(history)}, expected pairs of a question and its reply")
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def _pixels(box: Any, objects: dict[str, Any], images: Sequence[ImageSource]) -> list[float]:
    """A box of `objects` in pixels of its image."""
    kind = objects.get("bbox_type", "real")
    if kind not in ("real", "norm1", "norm1000"):
        raise ValueError(f"objects.bbox_type is {shown(kind)}, expected real, norm1 or norm1000")
    if kind == "real":
        return list(records.as_box(box))
    index = (objects.get("image_id") or [0])[0]
    if not isinstance(index, int) or not 0 <= index < len(images):
        raise ValueError(f"objects.image_id names image {shown(index)}, the row has {len(images)}")
    width, height = image_size(images[index])
    scale = 1.0 if kind == "norm1" else 1000.0
    x1, y1, x2, y2 = records.as_box(box)
    return [x1 * width / scale, y1 * height / scale, x2 * width / scale, y2 * height / scale]


def _share_box(value: Any, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box or point in shares of the image as a box in pixels."""
    numbers = value if isinstance(value, list | tuple) and all(type(v) in (int, float) for v in value) else []
    if len(numbers) not in (2, 4) or not all(math.isfinite(v) and 0 <= v <= 1 for v in numbers):
        raise BoxError(f"gt_bbox is {shown(value)}, expected [x1, y1, x2, y2] or [x, y] as shares of the image")
    if len(numbers) == 2:
        x, y = numbers
        numbers = [max(0.0, x - 0.01), max(0.0, y - 0.01), min(1.0, x + 0.01), min(1.0, y + 0.01)]
    x1, y1, x2, y2 = numbers
    return records.as_box([x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1]])
