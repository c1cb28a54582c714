"""Questions with their images, boxes and replies: before and after side by side, and groups of sibling rollouts."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import pstdev
from typing import Any

from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from saccade.report.charts import overlay
from saccade.report.files import RunFiles

Row = dict[str, Any]
Size = tuple[int, int]
SIDE_PX = 448
"""Longest side of an embedded image; larger ones are shrunk so that the page stays small."""
CARDS = 12
GROUP_STEPS = 4
"""Moments of training that the rollout browser shows, evenly spread; two groups at each."""

_TAGS = re.compile(r"(</?(?:think|answer)>)")


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply as the page shows it."""

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
    picture: Markup | None
    replies: tuple[Reply, ...]
    pictures_each: bool = False
    """True when every reply has a picture of its own (boxes to draw)."""


def pieces(text: str) -> tuple[tuple[str, str], ...]:
    """Cut a reply at its tags; text of any shape whatever is shown, nothing is dropped."""
    kind, found = "outside", []
    for part in _TAGS.split(text):
        if _TAGS.fullmatch(part):
            found.append(("tag", part))
            kind = "outside" if part.startswith("</") else part.strip("<>")
        elif part:
            found.append((kind, part))
    return tuple(found)


def picture(path: Path, boxes: Sequence[tuple[Sequence[float], str]] = ()) -> Markup | None:
    """The image as a data URL with its boxes (original pixels); None when it does not open."""
    try:
        with Image.open(path) as image:
            size, small = image.size, image.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return None
    small.thumbnail((SIDE_PX, SIDE_PX))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    if buffer.tell() > 60_000:  # a photograph: PNG would be several times larger
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=85)
    mime = "png" if buffer.getvalue().startswith(b"\x89PNG") else "jpeg"
    source = f"data:image/{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return overlay(source, size, boxes)


def sample_cards(rows: Sequence[Row], folder: Path, warnings: list[str]) -> list[Card]:
    """Cards of samples.json: base, SFT and RL answer the same question."""
    cards = []
    for row in rows[:CARDS]:
        path, gold_box = folder / str(row.get("image", "")), row.get("gold_box")
        gold = [(gold_box, "gold")] if gold_box else []
        shown = picture(path, gold) if path.is_file() else None
        if shown is None:
            warnings.append(f"the image of sample {row['sample_id']} is missing: {row.get('image')}")
        replies = tuple(
            Reply(
                who,
                pieces(reply["text"]),
                reply.get("right"),
                picture(path, [*gold, (reply["box"], "predicted")] if reply.get("box") else gold) if gold and shown else None,
                (("reward", f"{reply['reward']:.2f}"),) if "reward" in reply else (),
            )
            for who, reply in row["replies"].items()
        )
        title = f"{row['task']}, {row['split']}"
        cards.append(Card(title, _plain(row["question"]), _gold(row.get("gold")), shown, replies, bool(gold and shown)))
    return cards


def item_cards(run: RunFiles) -> list[Card]:
    """Cards of an evaluation: the first items of each task whose image was kept, all decodings side by side."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    per_task: dict[tuple[str, str], int] = {}
    for row in run.items():
        key = (row["split"], row["task"], row["sample_id"])
        if key not in found:
            if row["image_shas"] and run.image(row["image_shas"][0]) is None or per_task.get(key[:2], 0) >= 3:
                continue
            per_task[key[:2]] = per_task.get(key[:2], 0) + 1
            found[key] = []
        found[key].append(row)
    return [_item_card(run, rows) for rows in list(found.values())[:CARDS]]


def _item_card(run: RunFiles, rows: Sequence[Row]) -> Card:
    first = rows[0]
    path = run.image(first["image_shas"][0]) if first["image_shas"] else None
    gold = [(box, "gold") for box in first["gold_boxes"]]
    replies = tuple(
        Reply(
            f"{row['model']}, {row['decoding']}",
            pieces(row["text"]),
            row["verdicts"][0],
            picture(path, [*gold, *((box, "predicted") for box in row["boxes"])]) if gold and path else None,
            (("tokens", str(row["tokens"][0])),),
        )
        for row in rows
    )
    title = f"{first['task']}, {first['split']}"
    shown = picture(path, gold) if path else None
    return Card(title, _plain(first["question"]), _gold(first["gold"]), shown, replies, bool(gold and path))


def group_cards(run: RunFiles) -> list[Card]:
    """Some groups of the run with all siblings: two at each of a few evenly spread steps, most varied rewards first."""
    steps = sorted({row["step"] for row in run.rollouts() if "step" in row})
    chosen = {steps[round(i * (len(steps) - 1) / max(1, GROUP_STEPS - 1))] for i in range(GROUP_STEPS)} if steps else set()
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in run.rollouts():
        if row.get("step") in chosen:
            groups.setdefault((row["step"], str(row["group_id"])), []).append(row)
    return [_group_card(run, rows) for step in sorted(chosen) for rows in _most_varied(groups, step)]


def _most_varied(groups: dict[tuple[int, str], list[Row]], step: int, most: int = 2) -> Iterator[list[Row]]:
    of_step = [rows for (at, _), rows in groups.items() if at == step]
    yield from sorted(of_step, key=lambda rows: -pstdev(float(r["reward"] or 0) for r in rows))[:most]


def _group_card(run: RunFiles, rows: Sequence[Row]) -> Card:
    first = rows[0]
    path = run.image(_first(first.get("image_sha")))
    ordered = sorted(rows, key=lambda r: (-float(r["reward"] or 0), r["index"]))
    stage = f", stage {first['stage']}" if first.get("stage") is not None else ""
    title = f"Step {first['step']}{stage}: {first['task']}"
    question = str(first.get("question") or f"sample {first['sample_id']} (the run did not record the question's words)")
    return Card(title, _plain(question), _gold(first.get("gold")), picture(path) if path else None, tuple(map(_sibling, ordered)))


def _sibling(row: Row) -> Reply:
    parts = [(name.replace("_", " "), f"{value:.2f}") for name, value in (row.get("parts") or {}).items()]
    facts = [("reward", f"{row['reward']:.2f}"), ("advantage", f"{row['advantage']:+.2f}"), *parts]
    facts.append(("tokens", str(len(row.get("token_ids") or ()))))
    if row.get("finish_reason") not in (None, "stop"):
        facts.append(("ended by", str(row["finish_reason"])))
    if row.get("masked"):
        facts.append(("masked", str(row["masked"])))
    return Reply(f"{int(row['index']) + 1}", pieces(row["text"]), None, None, tuple(facts), float(row["advantage"]))


def masked_reasons(rows: Iterable[Row]) -> dict[str, int]:
    """How many rollouts left training for a failure of ours, by reason."""
    counts: dict[str, int] = {}
    for row in rows:
        if row.get("masked"):
            counts[str(row["masked"])] = counts.get(str(row["masked"]), 0) + 1
    return counts


def _first(value: Any) -> str | None:
    """The first hash of a row's `image_sha`, which is one hash or a list of them."""
    return (value[0] if value else None) if isinstance(value, list) else value


def _plain(question: str) -> str:
    return " ".join(question.replace("<image>", " ").split())


def _gold(value: Any) -> str:
    return "" if value is None else str(value)
