"""Is a mathematical answer equal to the gold? Typed rules first, a symbolic check in another process last."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from saccade.grading.answers import fold
from saccade.grading.arithmetic import PLAIN
from saccade.grading.memory import remembered
from saccade.grading.numbers import DEFAULT, MathRules
from saccade.grading.rules import LIST, amounts, calendar, compare_values, piecewise
from saccade.grading.sets import is_range
from saccade.grading.sides import Side, find_dates, read_clock, read_compound, read_date, read_ratio, side
from saccade.grading.verdict import Verdict
from saccade.parsing import plain, read_all_boxed, read_choice, read_yes_no
from saccade.parsing.claim_words import FORMULA
from saccade.parsing.claims import is_bare, read_claim
from saccade.parsing.numbers import with_point
from saccade.parsing.spoken import read_inequality, read_set, with_base, with_times

MAX_ANSWER = 2_000
"""Characters of an answer that are looked at; a longer one is no answer."""
_WORDS = re.compile(r"(?=.{0,99}[^\W\d_]{2})[^\W\d_]+(?:[\s'.,-]{1,3}[^\W\d_]+)*\.?")


@remembered
def grade_math(answer: str, gold: Any, rules: MathRules = DEFAULT) -> Verdict:
    r"""Right when the value that the answer claims equals the gold.

    The claim is read by `parsing.claims`; one that wavers is wrong. Values are compared by what they are: matrices,
    dates and times, ratios, numbers with unit and percent, sets, lists, tuples and intervals, words; what is none of
    these goes to math-verify in a process that can be killed. Of several boxes the last counts, all when the gold is a
    list. What cannot be decided in its CPU time is wrong; a gold that cannot be read, or a machine too busy to grade,
    gives no verdict. `rules` are the tolerance, unit and order rules in force.
    """
    if len(str(gold)) > MAX_ANSWER:
        return Verdict(
            None, "math: gold", f"the gold has {len(str(gold)):,} characters, expected {MAX_ANSWER:,} at most"
        )
    wanted = _gold(str(gold))
    if not wanted.side.form:
        return Verdict(None, "math: gold", f"gold {gold!r} is empty")
    if len(answer) > MAX_ANSWER:
        return Verdict(False, "math: length", f"{len(answer)} characters")
    answer = _FIGURE.sub("", _boxes(answer, wanted.text))
    core = _core(answer)
    if core == wanted.core:
        return Verdict(True, "math: exact")
    if not core:
        return Verdict(False, "math: empty", "no answer")
    if wanted.dated:
        answer = with_times(answer)
    return _special(answer, wanted, rules) or _claimed(answer, wanted.text, rules)


def _claimed(answer: str, gold: str, rules: MathRules) -> Verdict:
    if side(gold).amount is not None and not LIST.search(gold):
        answer = _AND_PART.sub(r"\1 \2", with_point(answer))
    claim = read_claim(answer)
    if claim.problem is not None:
        return Verdict(False, "math: unclear", claim.problem)
    verdict = Verdict(False, "math: unclear", "no value")
    if PLAIN.fullmatch(side(gold).form) and _UNDONE.fullmatch(side(_EQUALS.split(claim.values[0])[-1]).form):
        return Verdict(False, "math: not worked out", "a sum or a product for a number")
    for place, value in enumerate(claim.values):
        repeated = verdict
        verdict = _grade_chain(value, gold, rules)
        if place and verdict.right is False and compare_values(value, claim.values[0], rules).right:
            verdict = repeated  # '160 minutes (2 hours 40 minutes)'
        if verdict.right is not True:
            break
    return verdict


_AND_PART = re.compile(r"(?<![\d./])(\d{1,9})\sand\s(\d{1,4}\s?/\s?\d{1,4})(?![\d/.])")
"""'2 and 1/4' for a single number."""


def _core(text: str) -> str:
    """A text without spaces, dollar signs and a full stop at its ends."""
    if "\\" in text:
        text = plain(text)
    return " ".join(text.split()).strip(" $").rstrip(".").rstrip(" $")


@dataclass(frozen=True, slots=True)
class _Gold:
    """A gold, read once. `text` has no frame: several boxes are a list, one box is its inside."""

    text: str
    core: str
    side: Side
    words: bool
    says: bool | None
    """Of a gold that is yes, no, true or false."""
    letter: str | None
    """Of a gold such as '(B)' or '(B) 12', whose text is then 'B' or '12'."""
    ranged: bool
    """An inequality or an interval."""
    dated: bool
    """A date, a time of day, a ratio or a sum of units, which are read before any prose is."""


@lru_cache(maxsize=4096)
def _gold(text: str) -> _Gold:
    text = _FIGURE.sub("", with_base(text.strip()))
    boxes = read_all_boxed(text) if "boxed" in text or "fbox" in text else []
    if len(boxes) > 1:
        text = ", ".join(boxes)
    elif boxes and boxes[0]:
        text = boxes[0]
    letter = _LETTER.fullmatch(plain(text))
    core, shown = _core(text), plain(text).rstrip(".")
    if letter is not None:
        text = letter[2] or letter[1]
    elif FORMULA.search(text) and not is_bare(text) and len(said := read_claim(text).values) == 1:
        text = said[0]
    text = read_set(text) or text
    dated = any(read(shown) is not None for read in (read_date, read_clock, read_ratio, read_compound))
    words, letter = _is_words(text), letter[1] if letter else None
    says = read_yes_no(text) if fold(text) in ("yes", "no", "true", "false") else None
    return _Gold(text, core, side(text), words, says, letter, is_range(side(text).form), dated)


_FIGURE = re.compile(
    r"^\s*(?:(?i:the\s)?(?i:(?:line\s)?segment|line|ray|side|chord|arc|triangle|quadrilateral|point|angle|quadrant)\s+"
    r"(?=\$?(?:\\overline\s?\{)?[A-Z]{1,4}\}?\$?\.?$)|(?=.{1,30}$)\$?(?:\\triangle|△)\s?(?=[A-Z]{3}\$?\.?$))"
)
"""What a figure is called in front of its letters: 'triangle ABC'."""
_LETTER = re.compile(r"\(([A-J])\)\.?(?:(?:\\ |\s)\s*(\S.*))?")


def is_list(gold: str) -> bool:
    """Whether a gold has several parts: then several boxes of a reply are one answer."""
    return LIST.search(gold) is not None or gold.count("boxed") > 1


def _boxes(answer: str, gold: str) -> str:
    """The inside of the last box, or of all of them for a list; boxes that are joined by 'or' stay together."""
    if "box" not in answer or not (boxes := read_all_boxed(answer)):
        return answer
    if len(boxes) > 1 and (LIST.search(gold) or _OR.search(answer)):
        return ", ".join(boxes)
    return boxes[-1]


_OR = re.compile(r"\}[\s$)\\]*(?:\bor\b|/|\|)[\s$(\\]*f?boxed")


def _special(answer: str, gold: _Gold, rules: MathRules) -> Verdict | None:
    """Golds and answers that are not read as prose: dates, durations, words, sets that have a name."""
    if gold.dated and len(answer) < 100:
        verdict = calendar(side(answer), gold.side, rules)
        if verdict is not None and verdict.right:
            return verdict
        if (wanted := find_dates(gold.side.plain)) and len(said := find_dates(plain(answer))) == 1:
            return Verdict(said == wanted and not _DOUBT.search(answer), "math: date")
    if "cases}" in gold.text and (verdict := piecewise(answer, gold.text, rules)) is not None:
        return verdict
    if gold.ranged and (said := read_inequality(answer)) is not None:
        return compare_values(said, gold.text, rules)
    if answer[:1].isdigit() and read_compound(plain(answer)) is not None:
        return amounts(side(answer), gold.side, rules)
    if gold.letter and (read_choice(answer) == gold.letter or gold.side.plain == gold.letter):
        return Verdict(read_choice(answer) == gold.letter, "math: letter")
    if gold.says is not None:
        return Verdict(read_yes_no(answer) is gold.says, "math: words")
    if gold.words:
        return _grade_words(answer, gold.text)
    said = read_set(answer) if answer[:1].isalpha() or answer.startswith("\\text") else None
    return None if said is None else compare_values(said, gold.text, rules)


def _grade_chain(value: str, gold: str, rules: MathRules) -> Verdict:
    """'2 * 7 = 14': every part that has a value must have the gold's."""
    left, _, right = value.rpartition("=")
    if "=" not in gold and (_OPERATION.search(left) or _SEVERAL.fullmatch(left)) and _wide(value):
        return compare_values(right, gold, rules)
    parts = [part for part in _EQUALS.split(value) if part.strip(" $")]
    if len(parts) > 1 and "=" not in gold and _wide(value):
        known = [part for part in parts if side(part).amount is not None]
        if "\\approx" in value or "≈" in value:
            return _approximate(known or parts, gold, rules)
        if len(known) > 1:
            verdicts = [compare_values(part, gold, rules) for part in known]
            return next((one for one in verdicts if not one.right), verdicts[-1])
        if len(parts) > 2:
            return compare_values(parts[-1], gold, rules)
    return compare_values(value, gold, rules)


_EQUALS = re.compile(r"(?<![<>!=:\\])=(?!=)|\\approx(?![a-z])|≈|\\equiv(?![a-z])")


_OPERATION = re.compile(r"\\(?:[lc]?dots|i*nt|sum|prod|lim|det|max|min|gcd|lcm)(?![a-z])|\+\s?\.\.\.")
"""What is worked out behind the last sign of equality."""
_SEVERAL = re.compile(
    r"\s*+\$?\s*+(?:\|[^|=<>]{1,20}\||\\[lr]?vert.{1,20}\\[lr]?vert|P\([^()=]{1,20}\)|\\d?frac\s?\{[a-zA-Z]\}\s?\{[a-zA-Z]\}|"
    r"(?:\d{0,4}[a-zA-Z]{1,2}\s?[-+*/]\s?){1,4}\d{0,4}[a-zA-Z]{1,2}|(?![a-z]?dx)[a-z]{2,3})\s*+(?:=[^=]*)?"
)
"""A quantity that is asked for and is no single letter: |AB|, m+n, xy, with another form of it."""
_UNDONE = re.compile(r"[\d.()]*\d\)?[-+*]\(?\d[\d.()+*-]*")


def _wide(value: str) -> bool:
    """No commas outside of brackets: 'x = 1, y = 2' is a list and no chain."""
    return re.search(r",\s|,\\|,[a-zA-Z]\w?=|;|\b(?:and|or)\b|\n", value) is None


def _approximate(parts: list[str], gold: str, rules: MathRules) -> Verdict:
    verdicts = [compare_values(part, gold, rules) for part in parts]
    amounts = [
        amount.value.number * (0.01 if amount.percent else 1)
        for part in parts
        if (amount := side(part).amount) is not None
    ]
    near = all(abs(a - b) <= 0.02 * max(abs(a), abs(b)) for a in amounts for b in amounts)
    best = next((one for one in verdicts if one.right), verdicts[-1])
    return best if near else Verdict(False, best.route, "parts that differ")


def _is_words(gold: str) -> bool:
    text = plain(gold)
    return _WORDS.fullmatch(text) is not None and side(gold).amount is None and not _MATHEMATICS.search(text)


_MATHEMATICS = re.compile(
    r"^(?:infinity|pi|sin|cos|no (?:real )?solutions?|empty set|all real numbers|[a-z]{1,2}|[A-Z])$", re.I
)
_SAYING = re.compile(
    r"(?:.{1,300}?(?:\b(?:is|was|are|be|on|will|would|points?|faces?|moves?|heads?|turns?|becomes?|remains?|stays?|rotates?|spins?|goes|flows?)\b|\w's\b|:)|答案[是为:：]?)?\s*"
    r"(?:(?:on|in|to|towards|a|an|the|called|:)\s+)*(?:(?:capital\s)?(?:city|planet|country|word|color)\s(?:of\s)?)?",
    re.I | re.DOTALL,
)
_DOUBT = re.compile(
    r"\b(?:or|not|nor|neither|never|except|without|unlike|opposite|maybe|perhaps|either|n't|but)\b|\?", re.I
)


_SYNONYMS = tuple(
    (re.compile(rf"(?<![\w\\])(?:{pattern})(?!\w)"), word)
    for pattern, word in (
        (r"dne|doesn't exist|do not exist|no limit|nonexistent", "does not exist"),
        (r"not defined|is (?:not defined|undefined)", "undefined"),
        (r"(?:is )?divergent|do(?:es not|esn't) converge|diverge", "diverges"),
        (r"(?:is )?convergent|converge", "converges"),
        (r"(?:an )?infinit(?:e|ely)(?: many| number(?: of)?)?(?: solutions)?|\\infty|∞|infinity", "infinite"),
        *((rf"{day[:3]}|{day[:4]}|{day[:5]}", day) for day in ("monday", "tuesday", "wednesday", "thursday", "friday")),
        *((day[:3], day) for day in ("saturday", "sunday")),
    )
)
_BRACKETED = re.compile(r"^[(\[]([\w\s'-]{1,200})[)\]]$")
_VERBS = {"does", "diverges", "converges", "undefined"}
_SUBJECT = re.compile(r"(?:(?:the|this|its?|a|an)\s)?(?:\w{2,20}\s){0,3}")
"""What may stand in front of a gold that is a verb: 'the limit' does not exist."""


def _words_of(text: str) -> str:
    """Words in one spelling, without a noun behind them that says no more: 'an even function' is even."""
    text = _BRACKETED.sub(r"\1", fold(text))
    for pattern, word in _SYNONYMS:
        text = pattern.sub(word, text)
    return _NOUN.sub("", _BEARER.sub("", text).removeprefix("a ").removeprefix("an ").removeprefix("the "))


_BEARER = re.compile(
    r"(?<=\w)\s(?:wins?|won|did|does|(?:is|was)\s(?:the\s)?(?:correct|right|answer|winner|one)(?:\s(?:answer|one))?)$"
)
"""Behind a name that is the answer: 'Bob wins'."""
_NOUN = re.compile(r"(?<=\w)\s(?:triangle|function|number|quadrilateral|angle|line|relation|sequence|series)s?$")


def _grade_words(answer: str, gold: str) -> Verdict:
    """A word or words, alone or as what a sentence says."""
    wanted, said = _words_of(gold), _words_of(answer)
    if said == wanted:
        return Verdict(True, "math: words")
    prefix = said[: len(said) - len(wanted)]
    lead = _SUBJECT if wanted.split()[0] in _VERBS else _SAYING
    right = said.endswith(wanted) and lead.fullmatch(prefix) is not None and not _DOUBT.search(prefix)
    return Verdict(right, "math: words", "" if right else "other words")
