"""VLM-R1's rewards of lists of boxes, and its penalty of repetition, as its released code counts them.

See `vlm_r1`. An empty gold is the released data's text 'None'. Gold boxes are compared as the frame of the reply writes
them; the released code converts nothing, which is the same where boxes are pixels of the image that the model saw.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from saccade import grading, parsing
from saccade.geometry import COCO_THRESHOLDS, from_original
from saccade.rewards.boxes import frame_of, gold_list
from saccade.rewards.options import Thresholds
from saccade.rewards.vlm_r1 import blocks, clean, iou, last_answer, scored
from saccade.types import Box, Completion, Sample, Score

if TYPE_CHECKING:
    from saccade.parsing import LabelledBox

_LIST_START, _LIST_END = re.compile(r"\[\s*\{"), re.compile(r"\}\s*\]")
_OBJECT = re.compile(r"\{[^{}]*\}")
_STRAY_COMMA = re.compile(r",(\s*[}\]])")
NGRAM = 6


def _gold(completion: Completion, sample: Sample) -> list[LabelledBox]:
    frame = frame_of(sample, completion.frames)
    return [parsing.LabelledBox(from_original(item.box, frame), item.label) for item in gold_list(sample)]


def _entries(text: str, last: bool) -> list[Any]:
    """The entries of the last (or first) closed JSON fence; [] when there is none or it cannot be read.

    Of an object the keys and of a text the letters are its entries, as Python iterates them.
    """
    fences = blocks(text, "```json", "```")
    inside = next(fences, None)
    if last:
        for later in fences:
            inside = later
    if inside is None:
        return []
    try:
        return list(json.loads(inside.strip()))
    except (ValueError, TypeError, RecursionError):
        return []


# --------------------------------------------------------------------------------------------------- average precision


def map_(completion: Completion, sample: Sample, thresholds: Thresholds = COCO_THRESHOLDS) -> Score:
    """Average precision of the last closed JSON fence anywhere; labels as written; entries that do not fit are dropped.

    An entry fits with a label of the gold and a `bbox_2d` of four numbers or more, of which the first four count; true
    is 1 there. Boxes of negative or vast area are ignored as COCO does. Deviates from the released code: a box with NaN
    or Infinity is dropped (there NaN finds any gold box), one with a number beyond floats too (there it raises), and
    where no gold box can be counted the score is 0 (there -1).

    Formula: mAP@[.5:.95]; 1 when both lists are empty, 0 when one is.
    Source: VLM-R1, map.
    """
    return scored(_precision(_entries(completion.text, last=True), _gold(completion, sample), thresholds))


def od_ap(completion: Completion, sample: Sample, thresholds: Thresholds = COCO_THRESHOLDS) -> Score:
    """As `vlm_r1/map`, of the last answer block; where nothing is there, any answer without entries gets 1.

    Without an answer block 0. Deviates from the released code as `vlm_r1/map` does.

    Formula: mAP@[.5:.95].
    Source: VLM-R1, od_ap.
    """
    answer, gold = last_answer(completion.text), _gold(completion, sample)
    if answer is None:
        return Score(0.0, "no answer tag")
    return scored(_precision(_entries(answer, last=True), gold, thresholds))


def od_ap50(completion: Completion, sample: Sample) -> Score:
    """As `vlm_r1/od_ap` only at IoU 0.5.

    Deviates from the released code as `vlm_r1/map` does.

    Formula: AP at IoU 0.5.
    Source: VLM-R1, od_ap50.
    """
    return od_ap(completion, sample, (0.5,))


def od_length(completion: Completion, sample: Sample) -> Score:
    """`vlm_r1/od_ap` times a price for entries too many; entries that are dropped count in their number.

    Deviates from the released code as `vlm_r1/map` does.

    Formula: min(1, n_gold / n_pred) * mAP@[.5:.95].
    Source: VLM-R1, odLength.
    """
    answer, gold = last_answer(completion.text), _gold(completion, sample)
    if answer is None:
        return Score(0.0, "no answer tag")
    entries = _entries(answer, last=True)
    precision = _precision(entries, gold, COCO_THRESHOLDS)
    return scored(precision if len(gold) >= len(entries) else precision * (len(gold) / len(entries)))


def _precision(entries: Sequence[Any], gold: Sequence[LabelledBox], thresholds: Sequence[float]) -> float:
    if not entries or not gold:
        return float(not entries and not gold)
    found = [parsing.LabelledBox(box, one["label"]) for one in entries if (box := _fitting(one)) is not None]
    labels = {one.label for one in gold}
    known = [one for one in found if one.label in labels]
    return grading.average_precision(known, gold, thresholds) if known else 0.0


def _fitting(entry: Any) -> Box | None:
    """The first four numbers of an entry with a label, as floats."""
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
        return None
    box = entry.get("bbox_2d")
    if not isinstance(box, list) or len(box) < 4 or not all(isinstance(v, int | float) for v in box[:4]):
        return None
    try:
        x1, y1, x2, y2 = map(float, box[:4])
    except OverflowError:
        return None
    return (x1, y1, x2, y2) if all(map(math.isfinite, (x1, y1, x2, y2))) else None


# ------------------------------------------------------------------------------------------------------- weighted sum


def weighted_sum(completion: Completion, sample: Sample) -> Score:
    """Place and completeness of greedy pairs of any labels; a wrong label takes its gold box away and earns no place.

    The first closed JSON fence of the last answer block, or of all, in lower case; every entry counts, one whose box
    cannot be read with an IoU of 0. Where nothing is there, the answer 'None' gets 1 and anything else 0. A pair whose
    label is missing or no text takes the label of the pair before it. Deviates from the released code: where there is
    no pair before it that raises there, and here the label counts as wrong.

    Formula: 0.7 * sum of IoU / n_gold + 0.3 * (1 - (missed / n_gold + spurious / n_pred) / 2).
    Source: VLM-R1, weighted_sum (detection_score).
    """
    text, gold = clean(completion.text), _gold(completion, sample)
    if not gold:
        return scored(float(text == "none"))
    entries = _entries(clean(text), last=False)
    if not entries:
        return Score(0.0, "no boxes")
    place, pairs = _greedy(entries, gold)
    missed, spurious = 1 - pairs / len(gold), 1 - pairs / len(entries)
    return scored(min(1.0, 0.7 * place / len(gold) + 0.3 * (1 - (missed + spurious) / 2)))


def _greedy(entries: Sequence[Any], gold: Sequence[LabelledBox]) -> tuple[float, int]:
    """Sum of IoU of rightly labelled pairs, and the number of all pairs of IoU 0.5 or more, best first."""
    objects = [(i, entry) for i, entry in enumerate(entries) if isinstance(entry, dict)]
    overlaps = [(_overlap(entry, one.box), i, j) for i, entry in objects for j, one in enumerate(gold)]
    used_entries: set[int] = set()
    used_gold: set[int] = set()
    place, label = 0.0, None
    for overlap, i, j in sorted((one for one in overlaps if one[0] >= 0.5), key=lambda one: -one[0]):
        if i in used_entries or j in used_gold:
            continue
        used_entries.add(i)
        used_gold.add(j)
        written = entries[i].get("label")
        label = written.lower() if isinstance(written, str) else label
        place += overlap if label == gold[j].label.lower() else 0.0
    return place, len(used_entries)


def _overlap(entry: dict[str, Any], box: Box) -> float:
    try:
        return iou(entry["bbox_2d"], box)
    except (ArithmeticError, LookupError, TypeError):
        return 0.0


# --------------------------------------------------------------------------------------------------------- repetition


def repetition(completion: Completion, sample: Sample) -> Score:
    """Repeated boxes, exact copies under the same label as written; without a list of boxes, repeated 6-grams of words.

    The list is the first closed JSON fence, else the first closed fence of any kind, else a list of objects in the
    text; objects without box and label do not count. Deviates from the released code: a list that is no JSON is read
    without its stray commas, else by its whole objects (in either kind of quotes), where json_repair mends it there; an
    entry that is no object is passed over, where a number raises there; a text nested too deep, or with a number of
    thousands of digits, counts as words, where it raises there.

    Formula: unique / total - 1.
    Source: VLM-R1, repetition.
    """
    grams = _written_boxes(completion.text)
    if grams is None:
        words = completion.text.lower().split()
        grams = [" ".join(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]
    repeated = 1 - len(set(grams)) / len(grams) if grams else 0.0
    return Score(-repeated, f"{repeated:.0%} repeated" if repeated else None)


def _written_boxes(text: str) -> list[str] | None:
    """Box and label of each object, as Python writes them; None when there is no list, or an empty one."""
    inside = next(blocks(text, "```json", "```"), None)
    if inside is None:
        inside = next(blocks(text, "```", "```"), "").strip() or _list_in_text(text)
    try:
        items = _items(inside.strip())
        return (
            None
            if not items
            else [
                f"{one['bbox_2d']}_{one['label']}"
                for one in items
                if isinstance(one, dict) and "bbox_2d" in one and "label" in one
            ]
        )
    except (ValueError, RecursionError):
        return None


def _list_in_text(text: str) -> str:
    """From the first `[{` over a box key and a label key to the first `}]`; '' without."""
    start = _LIST_START.search(text)
    box = text.find('"bbox_2d"', start.end()) if start else -1
    label = text.find('"label"', box + 9) if box >= 0 else -1
    end = _LIST_END.search(text, label) if label >= 0 else None
    return text[start.start() : end.end()] if start and end else ""


def _items(text: str) -> list[Any]:
    """The entries of a JSON list, mended where it is broken; [] for any other text. ValueError, RecursionError."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = _mended(text)
    return value if isinstance(value, list) else []


def _mended(text: str) -> list[Any]:
    """The entries of a broken list, or of several objects beside each other; [] for any other text."""
    start, first_object = text.find("["), text.find("{")
    listed = 0 <= start < first_object
    if listed:
        try:
            return [*json.loads(_STRAY_COMMA.sub(r"\1", text[start:]))]
        except json.JSONDecodeError:
            pass
    objects = [one for item in _OBJECT.finditer(text) for one in _whole(item[0])]
    return objects if listed or len(objects) > 1 else []


def _whole(text: str) -> list[Any]:
    for spelling in (text, text.replace("'", '"')):
        try:
            return [json.loads(spelling)]
        except json.JSONDecodeError:
            continue
    return []
