"""The words by which a text claims a value, takes it back or wavers; patterns of `saccade.parsing.claims`."""

from __future__ import annotations

import re


def words(text: str, ends: str = r"\b") -> str:
    """A pattern for any of the words that are separated by commas or line ends."""
    return rf"\b(?:{'|'.join(word.strip() for word in text.split(','))}){ends}"


FORMULA = re.compile(
    r"\$\$([^$]{1,600})\$\$|(?<!\\)\$(?=[^$\s])([^$\n]{1,400}?)(?<!\\)\$|\\\((.{1,600}?)\\\)|\\\[(.{1,600}?)\\\]",
    re.DOTALL,
)
SENTENCE_END = re.compile(r"(?<=[.!?;])[\s\"')*]+(?![a-z])|(?<=[。！？；])|\n+")
_SAYS = r"(?:(?:is|are|was|would be|should be|must be|comes to|=|:|：)[\s:：]*)+(?:given by\s|equal to\s)?"
CUE = re.compile(
    rf"{words('answers?, ans, result, solutions?')}(?:\s+to\s[^.=:]{{1,80}}?)?\s*{_SAYS}"
    r"|\b(?:answer|ans)\b\s*(?=[-\d$\\(\[{])|答案(?:应该?|就)?(?:[是为]|:|：|=)*\s*",
    re.I,
)
"""'The answer is': a strong claim."""
_VERBS = r"""is, are, be, was, were, am, equals?, gets?, got, obtain(?:s|ed)?, gives?, giving, yields?, has, have, had,
finds?, found, becomes?, comes? (?:out )?to, amounts? to, takes?, costs?, makes?, totals?, leaves?, leaving, needs?,
contains?, so(?=\s[-\d$\\]), counts?, sees?, reads?, shows?, conclude that, (?:it|that|there|he|she|what)'s"""
VERB = re.compile(rf"{words(_VERBS)}[\s:：]*(?:that\s)?|[=≈：]\s*|:(?!\d)\s*|\\approx\s*|[是为有得共]\s*", re.I)
"""'is', 'gives', '=': a weak claim."""
_FILLERS = r"""about, approximately, approx\.?, roughly, around, nearly, exactly, precisely, only, just, now, also,
then, simply, therefore, thus, hence, equal to, equivalent to, located at, given by, at, on, a total of, in total, the,
a, an, of, value, number, point, still, clearly, surely, definitely, probably, indeed, actually"""
FILLER = re.compile(
    rf"(?:\s*(?:{words(_FILLERS, '')}|~|≈|\\approx|\\sim|约|：|:|\"|')(?![A-Za-z])\s*)+",
    re.I,
)
NEGATED = re.compile(
    r"(?:\bnot|n't|\bnever|\brather than|\binstead of|\bexcept(?:\s+for)?|\bwithout|"
    r"\bunlike|\bnor|\bneither|\bother than|不是|非|不)"
    r"\s*(?:equal to|even|exactly|be|the|=|\$|\\\()*\s*$|"
    r"(?:n't|\bnot|\bnever)\s(?:think|believe|say|claim)\b[^.,;]{0,24}$|\bdoubt\b[^.,;]{0,24}$|"
    r"\b(?:nobody|no one|none|nothing)\b[^.,;]{0,24}$",
    re.I,
)
"""Stands in front of a value that is denied."""
DENIED = re.compile(
    r"[)\]}$\s]*(?:(?:is|are|was|does|do|would|can|could)\s?(?:not|n't)|isn't|aren't|"
    r"(?:is|are|seems)\s(?:wrong|incorrect|false|impossible)|不对|不是)",
    re.I,
)
_BOUNDS = r"""at least, at most, more than, less than, fewer than, greater than, smaller than, larger than, over,
under, above, below, up to, no more than, no less than, twice, thrice, half of, double, triple, between,
a (?:third|quarter) of, nearly, almost, beyond, exceeds"""
_OPERATORS = (
    r"(?:(?:square |cube |cubic |fourth |nth )?root|reciprocal|inverse|opposite|negation|negative|cube|square|"
    r"log(?:arithm)?|absolute value|(?:co)?sine|tangent|factorial|complement|multiple|power|percent|derivative|"
    r"integral|remainder) of"
)
BOUND = re.compile(rf"(?:{words(_BOUNDS)}|{words(_OPERATORS)})\s*$", re.I)
"""Precedes a number that is a bound, or an operand of the value that is meant."""
OPERAND = re.compile(r"\s*(?:squared|cubed|factorial|to the (?:power|\w{3,10} power))\b", re.I)
"""Follows a number that is an operand."""
HEDGED = re.compile(
    r"[\d)}\]]\s*(?:\|\s*[-\d\\]|(?:\\(?:to|rightarrow|Rightarrow|longrightarrow)|->|→|=>|⇒)|\.\.\.|…|\?\s*[-\d])|"
    r"\(\s*(?:\\text\s?\{)?\s*(?:or|and)\b|[\d}]\s*[-–—]+\s*(?:or|and)\b|\bor\b\s*\?"
)
"""A value that wavers between several, without words."""
_WAVERING = r"""or, maybe, perhaps, possibly, alternatively, might, could be, wait, hmm+, actually, instead, unless,
guess, not sure, unsure, but, however, correction, oops, otherwise"""
WAVERING = re.compile(rf"{words(_WAVERING)}|\?|也许|可能|或|但|不对|等等", re.I)
CORRECTION = re.compile(r"\b(?:wait|actually|correction|sorry|oops|hmm+|instead)\b|\bno[,:]|不对|更正|等等", re.I)
_REASONS = r"""because, since, as, where, when, with, for, from, by, given, using, if, after, due, rounded, i\.e, note,
explanation, which, that, in, per, of, on, check, reason, proof, so, steps?, hope, let, this, these, i am, i'm, the,
therefore"""
EXPLAINED = re.compile(rf"^[\s,;:(.\-–—*]*(?:{words(_REASONS)}|每)", re.I)
"""What may hold other numbers behind a value: an explanation or a closing remark."""
NOT_CLAUSE = re.compile(
    r"[,;]?\s*(?:\(\s*)?(?:but\s)?(?:and\s)?(?:not|rather than|instead of|不是)\s[^,;.]{1,40}\)?", re.I
)
NUMBER_WORDS = re.compile(
    r"(?:(?:a\s(?=half|third|quarter))?(?:minus|negative|zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|"
    r"sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|"
    r"billion|half|third|thirds|quarter|quarters|and)\b[\s-]?)+|[零〇一二两三四五六七八九十百千万亿点负]{1,16}",
    re.I,
)
MATH_WORDS = {
    *("sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "pi", "or", "and", "frac", "infty", "mod"),
    *("arcsin", "arccos", "arctan", "cup", "cap", "in", "pm", "le", "ge", "leq", "geq", "cdot", "times", "infinity"),
    *("gcd", "lcm", "max", "min", "deg", "am"),
}
CODE = re.compile(
    r"\bprint\s?\(|^[ \t]*(?:import|from)\s+[a-z]|\bdef\s+\w{1,40}\(|^[ \t]*return\s|\bmath\.[a-z]", re.MULTILINE
)
"""What is a program and no answer."""
