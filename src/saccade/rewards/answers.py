"""Rewards of short answers: 1 when the answer is right, else 0.

The answer is the content of the answer tag; without the tag the score is 0 ('no answer tag'), whatever the text says.
`where` selects another location for policies that answer elsewhere. A gold that cannot be graded masks the rollout.
"""

from __future__ import annotations

from collections.abc import Callable

from saccade import grading, parsing
from saccade.grading import Verdict
from saccade.grading.numbers import MathRules, Order, Units
from saccade.rewards.options import Count, NotNegative, Where
from saccade.types import Completion, Sample, Score

NO_ANSWER = "no answer tag"


MISSING: dict[Where, str] = {"tag": NO_ANSWER, "boxed": "no boxed answer", "final": "no answer"}


def answer_of(completion: Completion, where: Where = "tag") -> str | None:
    """The reply's answer at the given location (`Where`), or None."""
    if where == "final":
        return parsing.read_final(completion.text)
    reply = parsing.read_reply(completion.text)
    return reply.answer if where == "tag" else parsing.read_boxed(reply.rest)


def choice(completion: Completion, sample: Sample, where: Where = "tag") -> Score:
    """The gold letter, by letter or by the text of its option (`sample.meta["options"]`).

    Naming several letters is not a choice.

    Formula: 1 if right, else 0.
    Source: VLM-R1's mcq, which cannot read '(A)'.
    """
    options = tuple(sample.meta.get("options") or ())
    return graded(completion, where, lambda answer: grading.grade_choice(answer, sample.answer, options))


def choices(completion: Completion, sample: Sample, partial: bool = False, where: Where = "tag") -> Score:
    """Exactly the gold letters, in any order. The gold is a list of letters or a text such as 'A, C'.

    `partial` gives the share of gold letters that are named, and 0 as soon as a wrong one is.

    Formula: 1 if the sets are equal; else with `partial` |answer| / |gold| if answer is a subset of gold; else 0.
    Source: Saccade; VLM-R1's mcq takes the first letter.
    """
    answer = answer_of(completion, where)
    if answer is None:
        return Score(0.0, MISSING[where])
    verdict = grading.grade_choices(answer, sample.answer, partial)
    if verdict.right is None:
        return Score(0.0, masked=f"gold cannot be graded: {verdict.detail}")
    return Score(verdict.value or 0.0, None if verdict.right else verdict.detail)


def number(
    completion: Completion,
    sample: Sample,
    relative: NotNegative = 0.0,
    absolute: NotNegative = 0.0,
    where: Where = "tag",
) -> Score:
    """The gold number; `relative` (a fraction of the gold) and `absolute` are the tolerances.

    Formula: 1 if |answer - gold| <= max(relative * |gold|, absolute), else 0.
    Source: VLM-R1's numeric; ChartQA (arXiv 2203.10244) with relative 0.05.
    """
    return graded(completion, where, lambda answer: grading.grade_number(answer, sample.answer, relative, absolute))


def value(
    completion: Completion,
    sample: Sample,
    relative: NotNegative = 0.0,
    absolute: NotNegative = 0.0,
    where: Where = "tag",
) -> Score:
    """As `number` when the gold is a number, as `exact_text` when it is text.

    Formula: 1 if right, else 0.
    Source: ChartQA (arXiv 2203.10244), relaxed accuracy with relative 0.05.
    """
    return graded(completion, where, lambda answer: grading.grade_value(answer, sample.answer, relative, absolute))


def counting(completion: Completion, sample: Sample, where: Where = "tag") -> Score:
    """Closeness of the answered count to the gold count: partial credit for a near miss, none for a fraction.

    Formula: max(0, 1 - |answer - gold| / max(gold, 1)); 0 unless the answer is a whole number of 0 or more.
    Source: Saccade; `number` is the strict version.
    """
    answer = answer_of(completion, where)
    if answer is None:
        return Score(0.0, MISSING[where])
    known = sample.answer
    written = isinstance(known, str | int | float) and not isinstance(known, bool)
    gold = parsing.read_number(str(known)) if written else None
    if gold is None or gold < 0 or not gold.is_integer():
        return Score(0.0, masked=f"gold cannot be graded: gold {sample.answer!r} is no count")
    count = parsing.read_number(answer)
    if count is None or count < 0 or not count.is_integer():
        return Score(0.0, "no count")
    near = max(0.0, 1 - abs(count - gold) / max(gold, 1.0))
    return Score(near, None if near == 1.0 else f"counted {count:g}")


def exact_text(completion: Completion, sample: Sample, where: Where = "tag") -> Score:
    """The gold text, ignoring case, white space and trailing punctuation.

    Formula: 1 if equal, else 0.
    Source: VLM-R1's all_match.
    """
    return graded(completion, where, lambda answer: grading.grade_text(answer, sample.answer))


def yes_no(completion: Completion, sample: Sample, where: Where = "tag") -> Score:
    """The gold yes or no, read by whole words: 'I know' and 'not sure' say neither.

    Formula: 1 if right, else 0.
    Source: VLM-R1's yes_no, which finds 'no' inside 'know'.
    """
    return graded(completion, where, lambda answer: grading.grade_yes_no(answer, sample.answer))


def math(
    completion: Completion,
    sample: Sample,
    digits: Count = 6,
    gold_decimals: Count = 2,
    units: Units = "optional",
    order: Order = "brackets",
    where: Where = "tag",
) -> Score:
    """An expression equal to the gold; the other options are those of `grading.MathRules`.

    Formula: 1 if equal, else 0.
    Source: VLM-R1's math; math-verify, in separate processes.
    """
    rules = MathRules(digits, gold_decimals, units, order)
    return graded(completion, where, lambda answer: grading.grade_math(answer, sample.answer, rules))


def graded(completion: Completion, where: Where, grade: Callable[[str], Verdict]) -> Score:
    """The verdict on the answer as a score of 1 or 0."""
    answer = answer_of(completion, where)
    if answer is None:
        return Score(0.0, MISSING[where])
    verdict = grade(answer)
    if verdict.right is None:
        return Score(0.0, masked=f"gold cannot be graded: {verdict.detail}")
    return Score(float(verdict.right), None if verdict.right else verdict.detail or "wrong")
