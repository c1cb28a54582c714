"""The first screen of a page: one question with its picture, answered before and after, and what the numbers say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from saccade.report.charts import overlay
from saccade.report.pictures import Pictures
from saccade.runs.files import JsonRow

BETTER, WORSE = (False, True), (True, False)
"""Verdicts of the first and of the last reply."""
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
    """The item that shows most: one that changed as most of the changed ones did (wrong first and right last, or the
    reverse), with true boxes, the shortest replies; without such an item another that has its picture. None without
    items. `steps`: the replies are of one model before and after, not of different ones."""
    changes = [_change(item) for item in items if _seen(item)]
    usual = BETTER if changes.count(BETTER) >= changes.count(WORSE) else WORSE
    ranked = sorted((item for item in items if _seen(item)), key=partial(_worth, usual))
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


def _change(item: JsonRow) -> tuple[bool | None, bool | None]:
    first, last = _ends(item)
    return first["right"], last["right"]


def _worth(usual: tuple[bool, bool], item: JsonRow) -> tuple[bool, bool, bool, int]:
    first, last = _ends(item)
    boxes = bool(item["gb"] and last["b"])
    return not item["img"], _change(item) != usual, not boxes, len(first["t"]) + len(last["t"])


def _which(items: Sequence[JsonRow], chosen: JsonRow, steps: bool) -> str:
    changes = [_change(item) for item in items if _seen(item)]
    better, worse = changes.count(BETTER), changes.count(WORSE)
    first, last = _ends(chosen)
    if first is last:
        return f"One of {len(changes)} questions."
    if not steps:
        return (
            f"Of {len(changes)} questions, right only with {last['who']}: {better}; only with {first['who']}: {worse}."
        )
    counts = f"Of {len(changes)} questions {better} turned right and {worse} turned wrong"
    return f"{counts}; this is one of them." if _change(chosen) in (BETTER, WORSE) else f"{counts}; this is neither."
