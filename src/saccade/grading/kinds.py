"""One door to all graders: by the name of a kind, or by what the gold looks like."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from saccade.grading.answers import (
    grade_number,
    grade_similarity,
    grade_text,
    grade_value,
    grade_yes_no,
)
from saccade.grading.choice import grade_choice, grade_choices, letters_for
from saccade.grading.math import grade_math, is_list
from saccade.grading.tolerances import TOLERANCES, grade_within
from saccade.grading.verdict import Verdict
from saccade.parsing import fold, parse_final, read_all_boxed, read_yes_no

_WORDS = re.compile(r"(?=.{0,99}[^\W\d_]{3})[^\W\d_]+(?:[\s'.-]{1,3}[^\W\d_]+)*\.?")
_SAID = re.compile(
    r"\A(?:(?:.{0,400}[.!] )?(?:so|thus|hence|therefore)?,? ?(?:the )?(?:(?:final|correct|right) )?answer"
    r"(?: is\b ?:?|:) ?[\"']?(?=\S))?(?:(?:the|an?) (?=\S))?"
)
"""'The answer is' and an article in front of a folded text."""
_SENTENCE = re.compile(
    r"(?:in the \w{2,20},? )?"
    r"(?:it|this|that|he|she|they|(?:the|this|his|her|its|their) (?:[\w'-]{1,20} ){0,5}?[\w'-]{1,20})"
    r"(?:'s| is| are| was| were| says| reads| shows)(?: (?:called|named|written|labeled|clearly))?:? "
    r"[\"']?(?:(?:the|an?) )?(?=\S)"
)
"""'The sign says' in front of a folded text."""
_DENIED = re.compile(r"n't\b|\b(?:not|never|nor|no|opposite|except|unlike|other|wrong|incorrect|than)\b")
_BRACKETED = re.compile(r"^[(\[]([^()\[\]]{1,400})[)\]]$")
_LETTER = re.compile(r"\(?([A-J])\)?")

KINDS: dict[str, Callable[[str, Any], Verdict]] = {
    "choices": grade_choices,
    "number": grade_number,
    "yes_no": grade_yes_no,
    "text": grade_text,
    "similarity": grade_similarity,
    "value": grade_value,
    "math": grade_math,
}
"""Kinds that need no more than answer and gold; 'choice', 'auto' and the names in `TOLERANCES` are kinds too."""
ALL_KINDS = ("auto", "choice", *KINDS, *TOLERANCES)


@dataclass(frozen=True, slots=True)
class Graded:
    """A verdict on a whole reply, with what was taken as its answer."""

    verdict: Verdict
    answer: str | None
    found: str
    """Where the answer stood ('answer block', 'boxed', 'final answer line', 'rest'), or why there is none."""


def grade_reply(
    reply: str, gold: Any, kind: str = "auto", options: Sequence[str] = (), precision: int | None = None
) -> Graded:
    """Finds the answer of a reply in any form and grades it; a reply without one is wrong. Arguments as `grade_answer`.

    When the gold is a list, several boxes are one answer.
    """
    reading = parse_final(reply)
    if reading.value is None:
        right = grade_answer("", gold, kind, options, precision).right
        return Graded(
            Verdict(False if right is not None else None, "no answer", reading.reason or ""), None, reading.reason or ""
        )
    answer = reading.value
    if reading.how == "boxed" and (isinstance(gold, list | tuple) or is_list(str(gold))):
        boxes = read_all_boxed(reply.rpartition("</think>")[2])
        joined = ", ".join(boxes)
        if len(boxes) > 1 and grade_answer(joined, gold, kind, options, precision).right:
            answer = joined
    return Graded(grade_answer(answer, gold, kind, options, precision), answer, reading.how)


def grade_answer(
    answer: str, gold: Any, kind: str = "auto", options: Sequence[str] = (), precision: int | None = None
) -> Verdict:
    """Grades the text of an answer by one of `ALL_KINDS`; 'auto' looks at the gold and the options.

    `options`: the texts of a choice question; `precision`: decimals, for the rules that round to the item's own.
    Raises ValueError for a kind that does not exist.
    """
    if gold is None:
        return Verdict(None, "gold", "gold is null")
    if kind == "choices":
        return grade_choices(answer, gold)
    if isinstance(gold, list | tuple):
        gold = ", ".join(map(str, gold))
    if kind == "auto":
        kind = kind_of(gold, options)
    if kind == "text" and not grade_text(answer, gold).right:
        sentence = _SENTENCE.match(fold(answer))
        if sentence and not _DENIED.search(sentence[0]):
            answer = sentence.string[sentence.end() :]
        answer, gold = (_BRACKETED.sub(r"\1", _SAID.sub("", fold(text))) for text in (answer, str(gold)))
    if kind == "choice":
        return grade_choice(answer, _letter_of(gold, options), options)
    if kind in KINDS:
        return KINDS[kind](answer, gold)
    if kind not in TOLERANCES:
        raise ValueError(f"got the kind {kind!r}, expected one of {', '.join(ALL_KINDS)}")
    return grade_within(answer, gold, kind, precision)


def kind_of(gold: Any, options: Sequence[str] = ()) -> str:
    """Choice with options or for a lone capital A-J; yes_no for such a word or a bool; text for words; else math."""
    if isinstance(gold, bool):
        return "yes_no"
    text = str(gold).strip()
    if options or _LETTER.fullmatch(text):
        return "choice"
    if fold(text) in ("yes", "no", "true", "false") or (len(text) <= 2 and read_yes_no(text) is not None):
        return "yes_no"
    return "text" if _WORDS.fullmatch(text) else "math"


def _letter_of(gold: Any, options: Sequence[str]) -> str:
    """The gold's letter: itself, or that of the one option whose text it is."""
    text = str(gold).strip()
    if match := _LETTER.fullmatch(text.upper()):
        return match[1]
    letters = [
        letter for letter, option in zip(letters_for(options), options, strict=False) if fold(option) == fold(text)
    ]
    return letters[0] if len(letters) == 1 else text
