"""Graders of choices: one letter, by letter or by content; or several letters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from saccade.grading.memory import remembered
from saccade.grading.rules import same_value
from saccade.grading.verdict import Verdict
from saccade.parsing import LETTERS, parse_choice, parse_choices
from saccade.parsing.claims import read_claim
from saccade.parsing.option_texts import own_text

_LABELED = re.compile(r"[^\w$\\]*([A-Za-z])[)\].:]+\s*(\S{1,60})\s*")
"""A letter and one word or formula behind it."""
LONGEST_CONTENT = 300
"""Characters of an answer that may be the content of an option."""


def letters_for(options: Sequence[str]) -> str:
    """The letters that name so many options; A to J when the options are not known."""
    return "".join(chr(ord("A") + i) for i in range(min(len(options), 26))) or LETTERS


@remembered
def grade_choice(answer: str, gold: Any, options: Sequence[str] = ()) -> Verdict:
    """Right when the answer picks the gold letter: by letter, by the option's text, or by a value equal to exactly one
    option's."""
    letters = letters_for(options)
    wanted = str(gold).strip().upper()
    if wanted not in letters or len(wanted) != 1:
        return Verdict(None, "choice", f"gold {gold!r} is none of {letters}")
    reading = parse_choice(answer, letters, options)
    picked, said = reading.value, reading.reason or ""
    if picked is None and options and reading.reason in ("no letter", "not a letter of the options"):
        picked = _by_value(answer, letters, options)
    elif picked is not None and _says_another(answer, picked, letters, options):
        picked, said = None, "letter and text disagree"
    right = picked == wanted
    return Verdict(right, "choice", "" if right else f"picked {picked}" if picked else f"picked nothing: {said}")


def _says_another(answer: str, picked: str, letters: str, options: Sequence[str]) -> bool:
    """Whether the value behind the letter is that of another option."""
    labeled = _LABELED.fullmatch(answer) if options else None
    if labeled is None or labeled[1].upper() != picked:
        return False
    return _by_value(labeled[2], letters, options) not in (None, picked)


def _by_value(answer: str, letters: str, options: Sequence[str]) -> str | None:
    """The letter of the one option whose value the answer claims."""
    claim = read_claim(answer) if len(answer) <= LONGEST_CONTENT else None
    if claim is None or claim.problem is not None:
        return None
    texts = [own_text(letter, option) for letter, option in zip(letters, options, strict=False)]
    for algebra in (False, True):
        owners = [
            letter
            for letter, text in zip(letters, texts, strict=False)
            if all(same_value(value, text, algebra) for value in claim.values)
        ]
        if owners:
            return owners[0] if len(owners) == 1 else None
    return None


@remembered
def grade_choices(answer: str, gold: Any, partial: bool = False) -> Verdict:
    """Right when the answer names exactly the gold's letters, in any order.

    `value` is the share of gold letters that are named, 0 when a wrong one is; with `partial` it is given for an
    incomplete answer too, else it is 0 or 1.
    """
    wanted = parse_choices(", ".join(map(str, gold)) if isinstance(gold, list | tuple) else str(gold)).value
    if not wanted:
        return Verdict(None, "choices", f"gold {gold!r} names no letters")
    reading = parse_choices(answer)
    said = reading.value or frozenset()
    right = said == wanted
    share = len(said & wanted) / len(wanted) if said <= wanted else 0.0
    detail = "" if right else f"picked {''.join(sorted(said)) or 'nothing: ' + (reading.reason or '')}"
    return Verdict(right, "choices", detail, share if partial else float(right))
