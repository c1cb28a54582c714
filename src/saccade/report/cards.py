"""Questions with their images, boxes and replies side by side."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
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


def data_url(path: Path) -> tuple[str, Size] | None:
    """(data URL of the image, at most SIDE_PX a side; its own size in pixels); None when it does not open."""
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
    return f"data:image/{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}", size


def picture(path: Path | None, boxes: Sequence[tuple[Sequence[float], str]] = ()) -> Markup | None:
    """The image as a data URL with its boxes (original pixels); None without one, and when it does not open."""
    found = data_url(path) if path else None
    return overlay(*found, boxes) if found else None


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
            Card(title, plain(row["question"]), gold_text(row.get("gold")), pictures, replies, bool(gold and shown))
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
        plain(first["question"]),
        gold_text(first["gold"]),
        _pictures(paths, gold, first["box_image"]),
        replies,
        each,
        options_of(first["options"]),
    )


def boxes_of(row: Json, image: int) -> tuple[Box, ...]:
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


def options_of(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple(zip(letters_for(texts), map(str, texts), strict=False))


def _marked(boxes: Sequence[Sequence[float]], kind: str) -> list[tuple[Sequence[float], str]]:
    return [(box, kind) for box in boxes]


def masked_reasons(rows: Iterable[Json]) -> dict[str, int]:
    """Number of rollouts masked in training, by reason."""
    counts: dict[str, int] = {}
    for row in rows:
        if row.get("masked"):
            counts[str(row["masked"])] = counts.get(str(row["masked"]), 0) + 1
    return counts


def plain(question: str) -> str:
    return " ".join(question.replace("<image>", " ").split())


def gold_text(value: Any) -> str:
    return "" if value is None else str(value)
