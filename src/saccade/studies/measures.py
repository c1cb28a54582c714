"""What is averaged over evaluated items besides accuracy: lengths, habits, boxes. Each maps an item to a number, or to
None where the measure does not apply to the item."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from typing import Any

from saccade.evaluation.habits import count_words, think_of
from saccade.evaluation.items import ItemResult
from saccade.grading.answers import fold
from saccade.grading.detection import average_precision, match
from saccade.parsing import LabelledBox, read_boxes, read_reply

Measure = Callable[[ItemResult], float | None]


def _accuracy(item: ItemResult) -> float | None:
    return item.accuracy if item.gradable else None


def _tokens(item: ItemResult) -> float:
    return fmean(item.tokens)


def _wrong_tokens(item: ItemResult) -> float | None:
    return _mean_length(item, False)


def _right_tokens(item: ItemResult) -> float | None:
    return _mean_length(item, True)


def _excess_of_wrong(item: ItemResult) -> float | None:
    """Mean length of a question's wrong replies minus that of its right ones: the question's difficulty cancels."""
    wrong, right = _mean_length(item, False), _mean_length(item, True)
    return None if wrong is None or right is None else wrong - right


def _mean_length(item: ItemResult, right: bool) -> float | None:
    """Of the replies that ended by themselves: one that is cut off is wrong because it is long."""
    attempts = zip(item.tokens, item.verdicts, item.truncated, strict=True)
    found = [n for n, verdict, truncated in attempts if verdict is right and not truncated]
    return fmean(found) if found else None


def _truncated(item: ItemResult) -> float:
    return fmean(item.truncated)


def _reflections(item: ItemResult) -> float:
    """Words of self-reflection after the first word, which names the habit in the world's own chains."""
    return float(sum(count_words(think_of(item.text).strip().partition(" ")[2]).values()))


def _listings(item: ItemResult) -> float:
    return fmean(item.listings)


def _listed(item: ItemResult) -> float:
    """Share of attempts that list what they look for, whatever word they begin with."""
    return fmean(n > 0 for n in item.listings)


def _habit(name: str) -> Measure:
    return lambda item: item.habits.count(name) / len(item.habits)


def _read(item: ItemResult) -> list[LabelledBox]:
    """The boxes of the first attempt as written, in the model's frame."""
    found = read_boxes(read_reply(item.text).answer or "")
    return [entry for entry in found if all(map(math.isfinite, entry.box))]


def _boxes(item: ItemResult) -> float:
    return float(len(_read(item)))


def _excess_boxes(item: ItemResult) -> float:
    return float(len(_read(item)) - len(item.gold_boxes))


def _predicted(item: ItemResult) -> list[LabelledBox]:
    """The boxes of the first attempt in pixels of the image, with their labels."""
    return [LabelledBox(box, fold(entry.label)) for box, entry in zip(item.boxes, _read(item), strict=True)]


def _gold(item: ItemResult) -> list[LabelledBox]:
    labels = [entry.get("label", "") if isinstance(entry, dict) else "" for entry in _entries(item.gold)]
    return [LabelledBox(box, fold(label)) for box, label in zip(item.gold_boxes, labels, strict=True)]


def _entries(gold: Any) -> list[Any]:
    return gold if isinstance(gold, list) and gold and isinstance(gold[0], dict) else [gold] if gold else []


def _matched(item: ItemResult) -> int:
    return len(match(_predicted(item), _gold(item)))


def _precision(item: ItemResult) -> float | None:
    """Where nothing of what was asked is in the image, every box is false."""
    read = _read(item)
    return (_matched(item) if item.gold_boxes else 0) / len(read) if read else None


def _recall(item: ItemResult) -> float | None:
    return _matched(item) / len(item.gold_boxes) if item.gold_boxes else None


def _average_precision(item: ItemResult) -> float | None:
    return average_precision(_predicted(item), _gold(item)) if item.gold_boxes else None


def _false_presence(item: ItemResult) -> float | None:
    """1 where the image shows nothing of what was asked and the reply has a box all the same."""
    return None if item.gold_boxes else float(bool(_read(item)))


MEASURES: Mapping[str, Measure] = {
    "accuracy": _accuracy,
    "tokens": _tokens,
    "right_tokens": _right_tokens,
    "wrong_tokens": _wrong_tokens,
    "excess_of_wrong": _excess_of_wrong,
    "truncated": _truncated,
    "reflections": _reflections,
    "listings": _listings,
    "listed": _listed,
    "habit_terse": _habit("terse"),
    "habit_enumerate": _habit("enumerate"),
    "habit_check": _habit("check"),
    "habit_ramble": _habit("ramble"),
    "boxes": _boxes,
    "excess_boxes": _excess_boxes,
    "precision": _precision,
    "recall": _recall,
    "average_precision": _average_precision,
    "false_presence": _false_presence,
}
"""Shares are 0..1, lengths are tokens, boxes are those of the first attempt, matched by label at IoU 0.5. Precision
is over the items with a box, recall and COCO's average precision over those with a gold box."""


def mean_measure(name: str, items: Iterable[ItemResult]) -> float | None:
    """The mean over the items to which the measure applies; None when there is none."""
    values = [value for item in items if (value := MEASURES[name](item)) is not None]
    return fmean(values) if values else None
