"""VLM-R1's rewards as its released code counts them, oddities and all, to be compared with; not to be trained on.

The plain names of `saccade.rewards` are the repaired ones. What differs is said for each. Written from the published
behaviour (github.com/om-ai-lab/VLM-R1, state of 2025-10). Boxes of lists are compared in the frame of the reply; the
original does not convert them. A reward that raises there masks here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from rapidfuzz.distance import Indel

from saccade.geometry import from_original, to_original
from saccade.grading.detection import COCO_THRESHOLDS, average_precision
from saccade.parsing import LabelledBox
from saccade.rewards.boxes import frame_of, gold_box, gold_list
from saccade.types import Box, Completion, Sample, Score

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_FOUR = re.compile(r"\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)\]")
_BETWEEN = re.compile(r"</think>\s*<answer>")
LONGEST_NUMBER = 300
"""Digits; a longer one would be infinite as a float."""


def _answer(text: str, last: bool) -> str | None:
    """The first or last answer block. Blocks cannot overlap, so the search is linear."""
    blocks = _ANSWER.findall(text) if "</answer>" in text else []
    return blocks[-1 if last else 0].strip() if blocks else None


# --------------------------------------------------------------------------------------------------------------- form


def form(completion: Completion, sample: Sample) -> Score:
    """Think block, white space, answer block, and nothing around them; both may be empty or hold further tags.

    Formula: 1 if the whole text matches, else 0.
    Source: VLM-R1, format_reward.
    """
    text, opening, closing = completion.text, "<think>", "</answer>"
    between = _BETWEEN.search(text, len(opening)) if text.startswith(opening) and text.endswith(closing) else None
    return _all_or_nothing(between is not None and between.end() <= len(text) - len(closing))


def form_rec(completion: Completion, sample: Sample) -> Score:
    """Anywhere in the text: think block, answer block with a brace, four unsigned whole numbers in brackets, a brace.

    Formula: 1 if found, else 0.
    Source: VLM-R1, format_reward_rec (Qwen).
    """
    text, start = completion.text, completion.text.find("<think>")
    between = _BETWEEN.search(text, start) if start >= 0 else None
    at = text.find("{", between.end()) if between else -1
    numbers = _FOUR.search(text, at) if at >= 0 else None
    brace = text.find("}", numbers.end()) if numbers else -1
    return _all_or_nothing(brace >= 0 and text.find("</answer>", brace) >= 0)


# ------------------------------------------------------------------------------------------------------------- one box


def rec(completion: Completion, sample: Sample) -> Score:
    """IoU of the first four unsigned whole numbers in brackets of the first answer block, in original pixels.

    Overlaps of at most one pixel in width or height count as none; further boxes are free; floats and negative numbers
    are not read.

    Formula: shared / (area + area - shared), with shared taken after subtracting and adding 1.
    Source: VLM-R1, iou_reward (Qwen, since 2025-06-26).
    """
    answer = _answer(completion.text, last=False)
    numbers = _FOUR.search(answer) if answer else None
    if numbers is None or any(len(number) > LONGEST_NUMBER for number in numbers.groups()):
        return Score(0.0, "no box")
    x1, y1, x2, y2 = (float(number) for number in numbers.groups())
    overlap = _iou(to_original((x1, y1, x2, y2), frame_of(sample, completion.frames)), gold_box(sample))
    return Score(min(1.0, max(0.0, overlap)), None if overlap == 1.0 else f"iou {overlap:.2f}")


def _iou(a: Box, b: Box) -> float:
    left, top, right, bottom = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]) - 1, min(a[3], b[3]) - 1
    shared = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union and math.isfinite(shared / union) else 0.0


# --------------------------------------------------------------------------------------------------------------- lists


def _listed(text: str) -> list[Any]:
    """The entries of the last fenced JSON; [] when there is none or it cannot be read."""
    start = text.rfind("```json")
    end = text.find("```", start + 7) if start >= 0 else -1
    if end < 0:
        return []
    try:
        value = json.loads(text[start + 7 : end])
    except (ValueError, RecursionError):
        return []
    return value if isinstance(value, list) else list(value) if isinstance(value, dict) else []


def _readable(items: Sequence[Any]) -> list[LabelledBox]:
    """The entries with four finite numbers and a label; the others are dropped, as they are there."""
    found = []
    for item in items:
        box, label = (item.get("bbox_2d"), item.get("label")) if isinstance(item, dict) else (None, None)
        if not isinstance(box, list) or len(box) != 4 or not isinstance(label, str):
            continue
        if all(type(v) in (int, float) and abs(v) < 1e15 for v in box):
            x1, y1, x2, y2 = map(float, box)
            found.append(LabelledBox((x1, y1, x2, y2), label))
    return found


def _gold(completion: Completion, sample: Sample) -> list[LabelledBox]:
    frame = frame_of(sample, completion.frames)
    return [LabelledBox(from_original(item.box, frame), item.label) for item in gold_list(sample)]


def _average(items: Sequence[Any], gold: Sequence[LabelledBox], thresholds: Sequence[float]) -> float:
    if not items or not gold:
        return float(not items and not gold)
    return average_precision(_readable(items), gold, thresholds)


def map_(completion: Completion, sample: Sample, thresholds: Sequence[float] = COCO_THRESHOLDS) -> Score:
    """Average precision of the last fenced JSON anywhere; labels as written; what cannot be read is dropped.

    Formula: mAP@[.5:.95]; 1 when both lists are empty, 0 when one is.
    Source: VLM-R1, map.
    """
    return _said(_average(_listed(completion.text), _gold(completion, sample), thresholds))


def od_ap(completion: Completion, sample: Sample, thresholds: Sequence[float] = COCO_THRESHOLDS) -> Score:
    """As `vlm_r1/map`, of the last answer block; where nothing is there, any answer without a fence gets 1.

    Formula: mAP@[.5:.95].
    Source: VLM-R1, od_ap.
    """
    answer, gold = _answer(completion.text, last=True), _gold(completion, sample)
    if answer is None:
        return Score(0.0, "no answer tag")
    return _said(1.0 if not gold and answer == "None" else _average(_listed(answer), gold, thresholds))


def od_ap50(completion: Completion, sample: Sample) -> Score:
    """As `vlm_r1/od_ap` at IoU 0.5 alone.

    Formula: AP at IoU 0.5.
    Source: VLM-R1, od_ap50.
    """
    return od_ap(completion, sample, (0.5,))


def od_length(completion: Completion, sample: Sample) -> Score:
    """`vlm_r1/od_ap` times a price for entries too many; entries that are dropped count in their number.

    Formula: min(1, n_gold / n_pred) * mAP@[.5:.95].
    Source: VLM-R1, odLength.
    """
    precision = od_ap(completion, sample).value
    entries, gold = len(_listed(_answer(completion.text, last=True) or "")), len(gold_list(sample))
    return _said(precision if gold >= entries else precision * gold / entries)


def weighted_sum(completion: Completion, sample: Sample) -> Score:
    """Place and completeness of greedy pairs of any labels; a wrong label takes its gold box away and earns no place.

    An entry without a label raises there and counts as wrongly labelled here.

    Formula: 0.7 * sum of IoU / n_gold + 0.3 * (1 - (missed / n_gold + spurious / n_pred) / 2).
    Source: VLM-R1, weighted_sum (detection_score).
    """
    text = " ".join((_answer(completion.text, last=True) or completion.text).lower().split("\n")).strip()
    gold = [LabelledBox(one.box, one.label.lower()) for one in _gold(completion, sample)]
    if not gold:
        return _said(float(text == "none" or not _listed(text)))
    items = [{"label": "", **item} if isinstance(item, dict) else item for item in _listed(text)]
    found = _readable(items)
    if not found:
        return Score(0.0, "no boxes")
    place, pairs = _greedy(found, gold)
    spurious, missed = 1 - pairs / len(found), 1 - pairs / len(gold)
    return _said(min(1.0, 0.7 * place / len(gold) + 0.3 * (1 - (missed + spurious) / 2)))


def _greedy(found: Sequence[LabelledBox], gold: Sequence[LabelledBox]) -> tuple[float, int]:
    """Sum of IoU of rightly labelled pairs, and the number of all pairs of IoU 0.5 or more."""
    overlaps = sorted(
        ((_iou(p.box, g.box), i, j) for i, p in enumerate(found) for j, g in enumerate(gold)), key=lambda o: -o[0]
    )
    used_found: set[int] = set()
    used_gold: set[int] = set()
    place = 0.0
    for overlap, i, j in overlaps:
        if overlap < 0.5:
            break
        if i not in used_found and j not in used_gold:
            used_found.add(i)
            used_gold.add(j)
            place += overlap if found[i].label == gold[j].label else 0.0
    return place, len(used_found)


# ------------------------------------------------------------------------------------------------------ short answers


def _clean(text: str) -> str:
    said = _answer(text, last=True)
    return (text if said is None else said).replace("\n", " ").strip().rstrip(".").lower()


def all_match(completion: Completion, sample: Sample) -> Score:
    """Equal texts after lower-casing; without an answer block the whole reply is the answer.

    Formula: 1 if equal, else 0.
    Source: VLM-R1, all_match.
    """
    return _all_or_nothing(_clean(completion.text) == _clean(str(sample.answer)))


def yes_no(completion: Completion, sample: Sample) -> Score:
    """The first 'yes' or 'no' inside any word: 'know' and 'not' say no.

    Formula: 1 if both texts say the same, or neither says anything; else 0.
    Source: VLM-R1, yes_no.
    """
    said = [re.search("yes|no", text.lower()) for text in (_clean(completion.text), str(sample.answer))]
    first, second = (match[0] if match else "" for match in said)
    return _all_or_nothing(first == second)


def levenshtein(completion: Completion, sample: Sample) -> Score:
    """Likeness of letters, without a threshold: a wrong answer of the same shape earns much.

    Formula: 1 - (insertions + deletions) / (length + length).
    Source: VLM-R1, the ratio inside its default accuracy.
    """
    return _said(Indel.normalized_similarity(_clean(completion.text)[:20_000], _clean(str(sample.answer))))


# ------------------------------------------------------------------------------------------------ length and repeats


def cosine(completion: Completion, sample: Sample) -> Score:
    """Brevity, whatever the answer: the accuracy is overwritten there. Rises again beyond 1,024 tokens.

    Formula: 0.75 + 0.25 * cos(pi * tokens / 1024).
    Source: VLM-R1, length (its issue 296).
    """
    return _said(0.75 + 0.25 * math.cos(math.pi * len(completion.token_ids) / 1024))


def repetition(completion: Completion, sample: Sample) -> Score:
    """Repeated boxes, exact copies under the same label; without a list of boxes, repeated 6-grams of words.

    Formula: unique / total - 1.
    Source: VLM-R1, repetition.
    """
    boxes = [f"{item.box}_{item.label}" for item in _readable(_listed(completion.text))]
    words = completion.text.lower().split()
    grams = boxes or [" ".join(words[i : i + 6]) for i in range(len(words) - 5)]
    repeated = 1 - len(set(grams)) / len(grams) if grams else 0.0
    return Score(-repeated, f"{repeated:.0%} repeated" if repeated else None)


def _all_or_nothing(right: bool) -> Score:
    return Score(float(right), None if right else "no match")


def _said(value: float) -> Score:
    return Score(value, None if value == 1.0 else f"{value:.2f}")
