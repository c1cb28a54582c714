"""Penalties, in [-1, 0], independent of whether the answer is right."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from saccade.geometry import iou
from saccade.rewards.answers import answer_of
from saccade.rewards.boxes import answered_boxes, gold_boxes
from saccade.rewards.options import Count, Share
from saccade.types import Completion, Sample, Score

if TYPE_CHECKING:
    from saccade.parsing import LabelledBox

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
LONGEST_WORD, PIECE = 100, 8
"""A longer run without spaces is not a word; it is split into pieces."""
MOST_BOXES = 200
"""Most boxes of an answer that are compared with each other; every further one counts as a repeat."""


def repetition(completion: Completion, sample: Sample, ngram: Count = 6) -> Score:
    """Minus the share of n-grams of words (lower-cased) that occurred before.

    0 for texts of fewer than `ngram` words; as many repeats as the gold text contains are free. In scripts without
    spaces every letter counts as a word, and runs of more than 100 letters are split into pieces of 8. A JSON answer is
    excluded: `box_repetition` handles its boxes.

    Formula: -max(0, total - unique - repeats in the gold) / total.
    Source: Yeo et al. 2025 (arXiv 2502.03373); VLM-R1.
    """
    total, repeated = _repeated(_prose(completion), ngram)
    if repeated and isinstance(sample.answer, str):
        repeated = max(0, repeated - _repeated(sample.answer, ngram)[1])
    share = repeated / total if total else 0.0
    return Score(-share, f"{share:.0%} repeated" if share else None)


def _repeated(text: str, ngram: int) -> tuple[int, int]:
    """Number of n-grams, and number of those that occurred before."""
    words = [part for word in _WORD.findall(text.lower()) for part in _parts(word)]
    grams = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
    return len(grams), len(grams) - len(set(grams))


def _parts(word: str) -> list[str]:
    return [word] if len(word) <= LONGEST_WORD else [word[i : i + PIECE] for i in range(0, len(word), PIECE)]


def _prose(completion: Completion) -> str:
    """The reply without an answer that is all JSON."""
    answer = answer_of(completion)
    if not answer or answer[0] not in "[{":
        return completion.text
    try:
        json.loads(answer)
    except (ValueError, RecursionError):
        return completion.text
    before, _, after = completion.text.rpartition(answer)
    return before + after


def box_repetition(completion: Completion, sample: Sample, threshold: Share = 0.9) -> Score:
    """Minus the share of answered boxes that overlap an earlier one of the same label with IoU >= `threshold`.

    As many repeats as the gold contains are free. Shifting a copy by a pixel does not hide it.

    Formula: -max(0, repeats answered - repeats in the gold) / boxes answered.
    Source: VLM-R1 (arXiv 2504.07615), repetition of boxes, which counts exact copies only.
    """
    answer = answer_of(completion)
    found = None if answer is None else answered_boxes(answer)
    if not found:
        return Score(0.0)
    listed = isinstance(sample.answer, list | tuple) and all(isinstance(item, dict) for item in sample.answer)
    over = max(
        0, _repeats(found, threshold) - (_repeats(gold_boxes(sample, completion.frames), threshold) if listed else 0)
    )
    return Score(-over / len(found), f"{over} of {len(found)} boxes repeated" if over else None)


def _repeats(items: list[LabelledBox], threshold: float) -> int:
    kept: dict[str, list[LabelledBox]] = {}
    repeats = max(0, len(items) - MOST_BOXES)
    for item in items[:MOST_BOXES]:
        same = kept.setdefault(item.label, [])
        if any(item.box == one.box or iou(item.box, one.box) >= max(threshold, 1e-9) for one in same):
            repeats += 1
        else:
            same.append(item)
    return repeats


def soft_overlong(completion: Completion, sample: Sample, max_length: Count, buffer: Count) -> Score:
    """0 up to `max_length - buffer` tokens, then falling linearly to -1 at `max_length`.

    Formula: -min(1, (tokens - (max_length - buffer)) / buffer), at most 0.
    Source: DAPO (arXiv 2503.14476), equation 13.
    """
    over = len(completion.token_ids) - (max_length - buffer)
    if over <= 0:
        return Score(0.0)
    return Score(-min(1.0, over / buffer), f"{over} tokens into the buffer")


def check_overlong(max_length: int, buffer: int) -> None:
    """ValueError when the buffer does not fit."""
    if not 0 < buffer <= max_length:
        raise ValueError(
            f"soft_overlong: got buffer {buffer}, max_length {max_length}; expected 0 < buffer <= max_length"
        )
