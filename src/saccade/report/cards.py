"""Questions with their images, boxes and replies: before and after side by side, and groups of sibling rollouts."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import pstdev
from typing import Any

from markupsafe import Markup

from saccade.data.images import ImageError, load_image
from saccade.evaluation.boxes import gold_boxes, reply_boxes
from saccade.grading.choice import letters_for
from saccade.report.charts import overlay
from saccade.runs.files import RunFiles, file_inside
from saccade.types import Box, Frame

Json = dict[str, Any]
Size = tuple[int, int]
SIDE_PX = 448
"""Longest side of an embedded image; larger ones are shrunk so that the page stays small."""
CARDS = 12
GROUP_STEPS = 4
"""Evenly spaced training steps that the rollout browser shows; two groups at each."""

_TAGS = re.compile(r"(</?(?:think|answer)>)")


@dataclass(frozen=True, slots=True)
class ReplyView:
    """A reply as shown on the page."""

    who: str
    pieces: tuple[tuple[str, str], ...]
    """(kind, text) with kind tag, think, answer or outside."""
    right: bool | None
    picture: Markup | None = None
    facts: tuple[tuple[str, str], ...] = ()
    """Numbers beside it: reward, advantage, tokens."""
    advantage: float = 0.0


@dataclass(frozen=True, slots=True)
class Card:
    """One question and its replies."""

    title: str
    question: str
    gold: str
    pictures: tuple[Markup, ...]
    """The images of the question; () when the run did not save them."""
    replies: tuple[ReplyView, ...]
    pictures_each: bool = False
    """True when every reply has its own picture (boxes to draw)."""
    options: tuple[tuple[str, str], ...] = ()
    """(letter, text) of a choice question."""


def pieces(text: str) -> tuple[tuple[str, str], ...]:
    """Split a reply at its tags; accepts any text and drops nothing."""
    kind, found = "outside", []
    for part in _TAGS.split(text):
        if _TAGS.fullmatch(part):
            found.append(("tag", part))
            kind = "outside" if part.startswith("</") else part.strip("<>")
        elif part:
            found.append((kind, part))
    return tuple(found)


def picture(path: Path | None, boxes: Sequence[tuple[Sequence[float], str]] = ()) -> Markup | None:
    """The image as a data URL with its boxes (original pixels); None without one, and when it does not open."""
    if path is None:
        return None
    try:
        small = load_image(path)
    except ImageError:
        return None
    size = small.size
    small.thumbnail((SIDE_PX, SIDE_PX))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    if buffer.tell() > 60_000:  # a photograph: PNG would be several times larger
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=85)
    mime = "png" if buffer.getvalue().startswith(b"\x89PNG") else "jpeg"
    source = f"data:image/{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return overlay(source, size, boxes)


def sample_cards(rows: Sequence[Json], folder: Path, warnings: list[str]) -> list[Card]:
    """Cards of samples.json: base, SFT and RL answer the same question."""
    cards = []
    for row in rows[:CARDS]:
        path = file_inside(folder, row.get("image"))
        gold = _marked([row["gold_box"]] if row.get("gold_box") else [], "gold")
        shown = picture(path, gold)
        if shown is None:
            warnings.append(f"the image of sample {row['sample_id']} is missing: {row.get('image')}")
        replies = tuple(
            ReplyView(
                who,
                pieces(reply["text"]),
                reply.get("right"),
                picture(path, [*gold, *_marked([reply["box"]] if reply.get("box") else [], "predicted")])
                if gold and shown
                else None,
                (("reward", f"{reply['reward']:.2f}"),) if "reward" in reply else (),
            )
            for who, reply in row["replies"].items()
        )
        title = f"{row['task']}, {row['split']}"
        pictures = (shown,) if shown else ()
        cards.append(
            Card(title, _plain(row["question"]), _gold(row.get("gold")), pictures, replies, bool(gold and shown))
        )
    return cards


def item_cards(run: RunFiles) -> list[Card]:
    """Cards of an evaluation: up to three items of each split and task whose images were saved, all decodings side by
    side."""
    found: dict[tuple[str, str, str], list[Json]] = {}
    turn: dict[tuple[str, str, str], int] = {}
    per_task: dict[tuple[str, str], int] = {}
    for row in run.items():
        key = (row["split"], row["task"], row["sample_id"])
        if key not in found:
            if (row["image_shas"] and not run.images(row["image_shas"])) or per_task.get(key[:2], 0) >= 3:
                continue
            per_task[key[:2]] = per_task.get(key[:2], 0) + 1
            found[key], turn[key] = [], per_task[key[:2]]
        found[key].append(row)
    return [_item_card(run, found[key]) for key in sorted(found, key=lambda key: turn[key])[:CARDS]]


def _item_card(run: RunFiles, rows: Sequence[Json]) -> Card:
    first, paths = rows[0], run.images(rows[0]["image_shas"])
    gold = _marked(first["gold_boxes"], "gold")
    replies = tuple(
        ReplyView(
            f"{row['model']}, {row['decoding']}",
            pieces(row["text"]),
            row["verdicts"][0],
            picture(paths[row["box_image"]], [*gold, *_marked(row["boxes"], "predicted")]) if gold and paths else None,
            (("tokens", str(row["tokens"][0])),),
        )
        for row in rows
    )
    title = f"{first['task']}, {first['split']}"
    each = bool(gold and len(paths) == 1)
    return Card(
        title,
        _plain(first["question"]),
        _gold(first["gold"]),
        _pictures(paths, gold, first["box_image"]),
        replies,
        each,
        _options(first["options"]),
    )


def group_cards(run: RunFiles) -> list[Card]:
    """Some groups of the run with all siblings: two at each of a few evenly spread steps, those with their images
    first, then those with the most varied rewards."""
    steps = sorted({row["step"] for row in run.rollouts() if "step" in row})
    chosen = (
        {steps[round(i * (len(steps) - 1) / max(1, GROUP_STEPS - 1))] for i in range(GROUP_STEPS)} if steps else set()
    )
    groups: dict[tuple[int, str], list[Json]] = {}
    for row in run.rollouts():
        if row.get("step") in chosen:
            groups.setdefault((row["step"], str(row["group_id"])), []).append(row)
    questions = {str(row["group_id"]): row for row in run.groups() if row.get("step") in chosen}
    return [
        _group_card(run, rows, questions.get(str(rows[0]["group_id"]), {}))
        for step in sorted(chosen)
        for rows in _most_telling(run, groups, step)
    ]


def _most_telling(
    run: RunFiles, groups: dict[tuple[int, str], list[Json]], step: int, most: int = 2
) -> list[list[Json]]:
    of_step = [rows for (at, _), rows in groups.items() if at == step]
    return sorted(
        of_step, key=lambda rows: (not run.images(rows[0].get("image_sha")), -pstdev(_reward(r) for r in rows))
    )[:most]


def _group_card(run: RunFiles, rows: Sequence[Json], group: Json) -> Card:
    first, answer = rows[0], group.get("answer")
    gold = gold_boxes(answer)
    image = int(group.get("meta", {}).get("image_index", 0))
    predicted = [box for row in rows for box in _boxes_of(row, image)] if gold else []
    boxes = [*_marked(gold, "gold"), *_marked(predicted, "predicted")]
    stage = f", stage {first['stage']}" if first.get("stage") is not None else ""
    title = f"Step {first['step']}{stage}: {first['task']}"
    question = str(group.get("question") or f"sample {first['sample_id']} (its question is not in groups.jsonl)")
    ordered = sorted(rows, key=lambda r: (-_reward(r), r["index"]))
    return Card(
        title,
        _plain(question),
        _gold(answer),
        _pictures(run.images(first.get("image_sha")), boxes, image),
        tuple(map(_sibling, ordered)),
        options=_options(group.get("meta", {}).get("options", ())),
    )


def _boxes_of(row: Json, image: int) -> tuple[Box, ...]:
    """Boxes of a rollout's answer; sizes are lists with an entry per image."""
    if not row.get("frame") or not row.get("size_original"):
        return ()
    frame = Frame(row["frame"], tuple(row["size_original"][image]), tuple(row["size_input"][image]))
    return reply_boxes(row["text"], frame)


def _pictures(
    paths: Sequence[Path], boxes: Sequence[tuple[Sequence[float], str]], box_image: int
) -> tuple[Markup, ...]:
    """All images of a question, with the boxes on the one they belong to; () when one of them does not open."""
    found = [picture(path, boxes if i == box_image else ()) for i, path in enumerate(paths)]
    return tuple(p for p in found if p is not None) if None not in found else ()


def _options(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple(zip(letters_for(texts), map(str, texts), strict=False))


def _marked(boxes: Sequence[Sequence[float]], kind: str) -> list[tuple[Sequence[float], str]]:
    return [(box, kind) for box in boxes]


def _reward(row: Json) -> float:
    """A masked rollout may have no reward; it sorts last."""
    return float(row["reward"] or 0.0)


def _sibling(row: Json) -> ReplyView:
    parts = [(name.replace("_", " "), f"{value:.2f}") for name, value in (row.get("parts") or {}).items()]
    facts = [("reward", f"{_reward(row):.2f}"), ("advantage", f"{row['advantage']:+.2f}"), *parts]
    facts.append(("tokens", str(len(row.get("token_ids") or ()))))
    if row.get("finish_reason") not in (None, "stop"):
        facts.append(("ended by", str(row["finish_reason"])))
    if row.get("masked"):
        facts.append(("masked", str(row["masked"])))
    return ReplyView(f"{int(row['index']) + 1}", pieces(row["text"]), None, None, tuple(facts), float(row["advantage"]))


def masked_reasons(rows: Iterable[Json]) -> dict[str, int]:
    """Number of rollouts masked in training, by reason."""
    counts: dict[str, int] = {}
    for row in rows:
        if row.get("masked"):
            counts[str(row["masked"])] = counts.get(str(row["masked"]), 0) + 1
    return counts


def _plain(question: str) -> str:
    return " ".join(question.replace("<image>", " ").split())


def _gold(value: Any) -> str:
    return "" if value is None else str(value)
