"""Graders of short answers. Each takes the answer's text (the inside of the tag) and the gold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from saccade.grading.verdict import Verdict
from saccade.parsing import LETTERS, plain, read_choice, read_number, read_yes_no

ROUND_OFF = 1e-9
"""Relative difference below which two numbers are the same number written twice."""


def letters_for(options: Sequence[str]) -> str:
    """The letters that name so many options; A to J when the options are not known."""
    return "".join(chr(ord("A") + i) for i in range(min(len(options), 26))) or LETTERS


def grade_choice(answer: str, gold: Any, options: Sequence[str] = ()) -> Verdict:
    """Right when the answer picks the gold letter, by letter or by the option's text."""
    letters = letters_for(options)
    wanted = str(gold).strip().upper()
    if wanted not in letters or len(wanted) != 1:
        return Verdict(None, "choice", f"gold {gold!r} is none of {letters}")
    picked = read_choice(answer, letters, options)
    return Verdict(picked == wanted, "choice", "" if picked == wanted else f"picked {picked or 'nothing'}")


def grade_number(answer: str, gold: Any, relative: float = 0.0, absolute: float = 0.0) -> Verdict:
    """Right when the numbers are equal, or differ by at most `relative` * |gold| or `absolute`.

    '50%' equals both 50 and 0.5; nothing else is scaled. Whole numbers of any length compare digit by digit.
    """
    wanted = read_number(gold) if isinstance(gold, str) else float(gold)
    if wanted is None or not math.isfinite(wanted):
        return Verdict(None, "number", f"gold {gold!r} is no number")
    got = read_number(answer)
    if got is None:
        return Verdict(False, "number", "no number")
    both_whole = str(gold).strip().isdigit() and answer.strip().isdigit()
    if both_whole and not relative and not absolute:
        right = str(gold).strip().lstrip("0") == answer.strip().lstrip("0")
    else:
        readings = (got, got / 100) if "%" in plain(answer) and "%" not in str(gold) else (got,)
        bound = max(relative, ROUND_OFF) * abs(wanted)
        right = any(abs(value - wanted) <= max(bound, absolute) for value in readings)
    return Verdict(right, "number", "" if right else f"got {got:g}")


def grade_yes_no(answer: str, gold: Any) -> Verdict:
    """Right when the answer says what the gold says; the gold is a bool or a word such as 'yes'."""
    wanted = gold if isinstance(gold, bool) else read_yes_no(str(gold))
    if wanted is None:
        return Verdict(None, "yes_no", f"gold {gold!r} is neither yes nor no")
    said = read_yes_no(answer)
    return Verdict(said is wanted, "yes_no", "" if said is wanted else f"said {_SAID[said]}")


_SAID = {True: "yes", False: "no", None: "neither"}


def grade_text(answer: str, gold: Any) -> Verdict:
    """Right when both texts are equal but for case, white space, full-width forms and outer punctuation."""
    wanted = fold(str(gold))
    if not wanted:
        return Verdict(None, "text", "gold is empty")
    right = fold(answer) == wanted
    return Verdict(right, "text", "" if right else "other text")


def grade_value(answer: str, gold: Any, relative: float = 0.0, absolute: float = 0.0) -> Verdict:
    """By the kind of gold: a number as a number, anything else as text. For charts and figures, whose answers mix."""
    if isinstance(gold, bool) or (isinstance(gold, str) and not _is_number(gold)):
        return grade_text(answer, gold)
    return grade_number(answer, gold, relative, absolute)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def fold(text: str) -> str:
    """Text as compared: NFKC, case folded, white space collapsed, outer quotes and closing punctuation dropped."""
    return " ".join(plain(text).casefold().split()).strip("\"'`").rstrip(".!,;").strip()
