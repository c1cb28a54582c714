"""The first screen of a page: one question with its picture, answered before and after, and what the numbers say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from saccade.report.charts import overlay
from saccade.report.pictures import Pictures
from saccade.runs.files import JsonRow

_TAGS = re.compile(r"(</?(?:think|answer)>)")


@dataclass(frozen=True, slots=True)
class Shown:
    """One of the replies."""

    who: str
    right: bool | None
    pieces: tuple[tuple[str, str], ...]
    """(kind, text) with kind tag, think, answer or outside."""
    picture: Markup | None
    """With its boxes; None where one picture serves all replies."""


@dataclass(frozen=True, slots=True)
class Hero:
    """A question that training never sees."""

    question: str
    options: tuple[tuple[str, str], ...]
    gold: str
    picture: Markup | None
    """The picture that serves all replies; None when each has its own."""
    shown: tuple[Shown, ...]
    words: str
    """Which question this is among all, so that nobody takes one example for the rule."""
    steps: bool = True
    """Whether the replies are of one model before and after."""


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


def hero(items: Sequence[JsonRow], pictures: Pictures, steps: bool = True) -> Hero | None:
    """The item that shows most: answered wrong first and right last, with true boxes, the shortest replies; without
    such an item another that has its picture. None without items. `steps`: the replies are of one model before and
    after, not of different ones."""
    ranked = sorted((item for item in items if _seen(item)), key=_worth)
    if not ranked or not ranked[0]["img"]:
        return None
    item = ranked[0]
    first, last = _ends(item)
    key = item["img"][min(item["bi"], len(item["img"]) - 1)]
    found = pictures.found[key]
    size = (found["w"], found["h"])
    gold = [(box, "gold") for box in item["gb"]]
    each = bool(gold) and first is not last

    def drawn(boxes: Sequence[Sequence[float]]) -> Markup:
        return overlay(found["src"], size, [*gold, *((box, "predicted") for box in boxes)])

    shown = tuple(
        Shown(reply["who"], reply["right"], pieces(reply["t"]), drawn(reply["b"]) if each else None)
        for reply in ((first, last) if first is not last else (first,))
    )
    options = tuple((letter, text) for letter, text in item["options"])
    one = None if each else drawn(last["b"])
    return Hero(item["q"], options, item["gold"], one, shown, _which(items, item, steps), steps)


def _seen(item: JsonRow) -> list[JsonRow]:
    """The replies that saw the item's own image."""
    return [reply for reply in item["r"] if not reply.get("blind")]


def _ends(item: JsonRow) -> tuple[JsonRow, JsonRow]:
    seen = _seen(item)
    return seen[0], seen[-1]


def _worth(item: JsonRow) -> tuple[bool, bool, bool, int]:
    first, last = _ends(item)
    better = first["right"] is False and last["right"] is True
    boxes = bool(item["gb"] and last["b"])
    return not item["img"], not better, not boxes, len(first["t"]) + len(last["t"])


def _which(items: Sequence[JsonRow], chosen: JsonRow, steps: bool) -> str:
    pairs = [(first["right"], last["right"]) for first, last in (_ends(item) for item in items if _seen(item))]
    better, worse = pairs.count((False, True)), pairs.count((True, False))
    first, last = _ends(chosen)
    if first is last:
        return f"One of {len(pairs)} questions."
    if not steps:
        only = f"{better} are right only with {last['who']}, {worse} only with {first['who']}"
        return f"Of {len(pairs)} questions, {only}."
    kind = (
        "Chosen among" if (first["right"], last["right"]) == (False, True) else "No question with its picture is among"
    )
    return f"{kind} the {better} of {len(pairs)} questions that turned right; {worse} turned wrong."
