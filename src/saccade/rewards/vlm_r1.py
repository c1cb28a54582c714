"""VLM-R1's rewards of form, one box, short answers and length, as its released code counts them, oddities and all.

For comparison, not for training: the plain names of `saccade.rewards` are the repaired ones. Each gives what the
released code gives on any text (github.com/om-ai-lab/VLM-R1, state of 2025-10), or its docstring says what deviates.
Rewards of lists of boxes are in `vlm_r1_lists`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from saccade.geometry import to_original
from saccade.rewards.boxes import frame_of, gold_box
from saccade.types import Completion, Sample, Score

_FOUR = re.compile(r"\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)\]")
_BETWEEN = re.compile(r"</think>\s*<answer>")
LONGEST = 20_000
"""Characters of a reply whose letters are compared; edit distance is quadratic."""


# --------------------------------------------------------------------------------------------------------------- texts


def blocks(text: str, opening: str, closing: str) -> Iterator[str]:
    """Insides of `opening..closing`, leftmost first, none overlapping, each up to the first closing; linear."""
    end = 0
    while (start := text.find(opening, end)) >= 0:
        start += len(opening)
        stop = text.find(closing, start)
        if stop < 0:
            return
        yield text[start:stop]
        end = stop + len(closing)


def first_answer(text: str) -> str | None:
    """The inside of the first answer block, stripped."""
    first = next(blocks(text, "<answer>", "</answer>"), None)
    return None if first is None else first.strip()


def last_answer(text: str) -> str | None:
    """The inside of the last answer block, stripped."""
    last = None
    for last in blocks(text, "<answer>", "</answer>"):  # noqa: B007 - the last one is wanted
        pass
    return None if last is None else last.strip()


def clean(text: str) -> str:
    """The last answer block, or all, in one line and lower case, without outer space and closing full stops.

    A line break after white space is dropped, any other becomes a space.
    """
    answer = last_answer(text)
    text = text if answer is None else answer
    for mark in "\n\r":
        text = re.sub(rf"(?<=\s){mark}", "", text).replace(mark, " ")
    return text.strip().rstrip(".").lower()


def gold_text(sample: Sample) -> str:
    """The gold as the released loader keeps it: without answer tags and outer space."""
    return str(sample.answer).replace("<answer>", "").replace("</answer>", "").strip()


# --------------------------------------------------------------------------------------------------------------- form


def form(completion: Completion, sample: Sample) -> Score:
    """Think block, white space, answer block, and nothing around them; both may be empty or hold further tags.

    Equal to the released code on any text.

    Formula: 1 if the whole text matches, else 0.
    Source: VLM-R1, format_reward.
    """
    text, opening, closing = completion.text, "<think>", "</answer>"
    between = _BETWEEN.search(text, len(opening)) if text.startswith(opening) and text.endswith(closing) else None
    return _all_or_nothing(between is not None and between.end() <= len(text) - len(closing))


def form_rec(completion: Completion, sample: Sample) -> Score:
    """Anywhere in the text: think block, answer block with a brace, four unsigned whole numbers in brackets, a brace.

    Equal to the released code of the Qwen family on any text.

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

    Overlaps of at most one pixel in width or height count as none; further boxes are free; floats, negative numbers and
    lists of five are not read. Deviates from the released code: the reply is put into original pixels for every family,
    not for Qwen alone; an overlap that is no number (sides beyond the largest float) is 0 and not NaN.

    Formula: shared / (area + area - shared), with shared taken after subtracting and adding 1.
    Source: VLM-R1, iou_reward (Qwen, since 2025-06-26).
    """
    answer = first_answer(completion.text)
    numbers = _FOUR.search(answer) if answer else None
    written = [float(number) for number in numbers.groups()] if numbers else []
    if not written or not all(map(math.isfinite, written)):
        return Score(0.0, "no box")
    box = to_original(written, frame_of(sample, completion.frames))
    overlap = min(1.0, max(0.0, iou(box, gold_box(sample))))
    return Score(overlap, None if overlap == 1.0 else f"iou {overlap:.2f}")


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU as the released code computes it; 0 where it divides by zero or gives no number."""
    left, top, right, bottom = max(a[0], b[0]), max(a[1], b[1]), min(a[2] - 1, b[2] - 1), min(a[3] - 1, b[3] - 1)
    shared = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union and math.isfinite(shared / union) else 0.0


# ------------------------------------------------------------------------------------------------------ short answers


def all_match(completion: Completion, sample: Sample) -> Score:
    """Equal texts in lower case, one line, without closing full stops; without an answer block the whole reply counts.

    Equal to the released code on any text.

    Formula: 1 if equal, else 0.
    Source: VLM-R1, all_match.
    """
    return _all_or_nothing(clean(completion.text) == clean(gold_text(sample)))


def yes_no(completion: Completion, sample: Sample) -> Score:
    """The first 'yes' or 'no' inside any word of the first answer block, or of all: 'know' and 'not' say no.

    Tags and words count in any case. Equal to the released code on any text.

    Formula: 1 if both texts say the same, or neither says anything; else 0.
    Source: VLM-R1, yes_no.
    """
    text = completion.text.lower()
    answer = first_answer(text)
    matches = [re.search("yes|no", one) for one in (text if answer is None else answer, gold_text(sample).lower())]
    first, second = (match[0] if match else "" for match in matches)
    return _all_or_nothing(first == second)


def levenshtein(completion: Completion, sample: Sample) -> Score:
    """Likeness of letters, without a threshold: a wrong answer of the same shape earns much.

    This is the last resort of the released default, for golds without a digit that are no choice; what comes before it
    there (math-verify, equal numbers, letters) is omitted. Deviates from the released code: of a reply or gold longer
    than 20,000 characters the rest is not compared.

    Formula: 1 - (insertions + deletions) / (length + length).
    Source: VLM-R1, the ratio inside its default accuracy.
    """
    from rapidfuzz.distance import Indel

    reply, gold = clean(completion.text)[:LONGEST], clean(gold_text(sample))[:LONGEST]
    return scored(Indel.normalized_similarity(reply, gold))


# ------------------------------------------------------------------------------------------------------------- length


def cosine(completion: Completion, sample: Sample) -> Score:
    """Brevity, independent of the answer: the accuracy is overwritten there. Rises again beyond 1,024 tokens.

    Deviates from the released code: tokens are those that were sampled, an end-of-text token included; it encodes the
    text anew.

    Formula: 0.75 + 0.25 * cos(pi * tokens / 1024).
    Source: VLM-R1, length (its issue 296).
    """
    return scored(0.75 + 0.25 * math.cos(math.pi * len(completion.token_ids) / 1024))


def _all_or_nothing(right: bool) -> Score:
    return Score(float(right), None if right else "no match")


def scored(value: float) -> Score:
    """The value, with itself as the reason where it is not 1."""
    return Score(value, None if value == 1.0 else f"{value:.2f}")
