r"""Finding the value that a text claims: in prose, in formulas, behind 'the answer is'; and whether it wavers.

Text is split into sentences, outside of formulas. In a sentence the value is what follows the last verb or sign of a
claim, else its last formula, else the only value, unless other words lead up to it. What follows the value is harmless
(a unit, a noun, a closing remark, an explanation), or repeats it, or makes it ambiguous: then nothing is claimed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from saccade.parsing.claim_words import (
    BOUND,
    CODE,
    CORRECTION,
    CUE,
    DENIED,
    EVASIVE,
    EXPLAINED,
    FILLER,
    FORMULA,
    HEDGED,
    MATH_WORDS,
    NEGATED,
    NOT_CLAUSE,
    NUMBER_WORDS,
    OPERAND,
    PLAIN_LEAD,
    ROUNDED,
    SCRIPTS,
    SENTENCE_END,
    SHORT_WORDS,
    SUBJECT_VERB,
    SUBORDINATE,
    TEXT,
    VALUE,
    VERB,
    WAVERING,
)
from saccade.parsing.markup import LONGEST, unmarked
from saccade.parsing.number_words import DENOMINATORS
from saccade.parsing.spoken import with_base
from saccade.parsing.units import read_measure

LONGEST_VALUE = 600
"""Characters of a text that may be one formula without prose."""
MAX_VERBS = 12
"""Verbs of a sentence that are looked at, from the last."""
_COMMAND = re.compile(r"\[\d+pt\]|\\(?:begin|end)\s?\{[A-Za-z]+\*?\}(?:\{[clr|]+\})?|\\[A-Za-z]+|[_^]\{?[A-Za-z]+\}?")
_WORD = re.compile(r"(?<![{}\d^_A-Za-z])[A-Za-z]{2,}(?:'[a-z]+)?(?![}{^_A-Za-z])|[" + SCRIPTS + r"]+")
_DIGITS = re.compile(r"\d|\\frac|\\sqrt|\\pi")
_JOINED = re.compile(r"\s*(?:,|;|\b(?:and|or)\b|,\s*(?:and|or)\b|、|和|或)\s*")
_ABOUT = re.compile(
    r"^(?:\$?\s*(?:∴|⇒|=>|→|\\therefore|\\[Rr]ightarrow|\\implies)\s*[,:]?|[≈~=:]|\\approx|\\sim)\s*", re.I
)
_LINES = re.compile(r"(?<=[\w)}])[ \t]*\n\s*(?=[a-zA-Z]\w?\s*=)")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a text claims. `values` are pieces that must all be the same value: 'x = 8 (eight)' gives 8 and eight."""

    values: tuple[str, ...]
    how: str
    problem: str | None = None
    """Why nothing is claimed: 'hedged', 'two answers', 'denied', 'a bound', 'code', 'no claim', 'no value'."""


@dataclass(frozen=True, slots=True)
class _Found:
    claim: Claim
    strong: bool
    """Said as the answer, or a sentence of its own."""


def read_claim(text: str) -> Claim:
    """The value that the text of an answer claims. Takes any string; linear in its length."""
    text = TEXT.sub(r"\1", unmarked(_BLANK.sub(_short_blank, text[-LONGEST:]))).strip()
    if len(_ENUMERATED.findall(text)) > 1:
        text = _ENUMERATED.sub("", text)
    text = _THAT_IS.sub("", text)
    text = with_base(_OUT_OF.sub(r"\1/\2", _MINUS.sub("-", _END_MARK.sub("", text))))
    text = _ENDLESS.sub(r"\1\\overline{\2}", _EQUALS.sub(r"\1 = ", _CHOOSE.sub(r"\\binom{\1}{\2}", text)))
    if CODE.search(text):
        return Claim((), "code", "code")
    if is_bare(text):
        return _bare(text)
    if EVASIVE.search(text):
        return Claim((), "hedged", "hedged")
    sentences = split_sentences(text)
    found = [(place, one) for place, sentence in enumerate(sentences) if (one := _sentence(sentence)) is not None]
    if not found:
        return Claim((), "no value", "no value")
    place, chosen = ([one for one in found if one[1].strong] or found)[-1]
    if chosen.claim.problem is None and any(map(_contradicts, sentences[place + 1 :])):
        return Claim((), chosen.claim.how, "two answers")
    return chosen.claim


_BLANK = re.compile(r"\s{9,}")
"""White space longer than any layout means; cut short, no pattern below takes more than linear time for it."""


def _short_blank(found: re.Match[str]) -> str:
    return "\n\n" if "\n" in found.group() else " "


_ENUMERATED = re.compile(r"^\s{0,16}+\d{1,2}[.)]\s{1,16}+(?=[A-Za-z$\\])", re.MULTILINE)
_THAT_IS = re.compile(r"^\s*i\.\s?e\.?\s*(?:[,:]\s*)?", re.I)
_END_MARK = re.compile(r"\s{0,16}+(?:\\\(|\$)?\s{0,16}+(?:\\blacksquare|\\square|\\qed|[∎■])\s*+(?:\\\)|\$)?\s*+$")
_OUT_OF = re.compile(
    r"(?<![\d./])(\d{1,9})(?:\s+(?:out\s+of|of|over)\s+|[\s-]in[\s-](?:every\s)?(?=\d{1,9}\.?$))(\d{1,9})(?!\d|[./]\d)"
)
_EQUALS = re.compile(r"(?<![\w'\\])(?![aI]\s)([a-zA-Z])\s(?:is|equals)(?:\sequal\sto)?\s(?=[-\d\\])")
_CHOOSE = re.compile(r"\b(\d{1,4})\s?choose\s?(\d{1,4})\b")
_ENDLESS = re.compile(r"(?<![\d.])(\d{0,9}\.\d{0,9}?)(\d{1,9}?)\2+\s?(?:\.\.\.|…|\\l?dots(?![a-z]))")
"""0.1666..., whose last digits are repeated."""
_MINUS = re.compile(r"(?<![\w)}%]\s)\b(?:minus|negative)\s+(?=[\d\\])", re.I)


def last_claim(text: str) -> str:
    """The end of a reply in prose from the sentence on that claims last: by 'the answer is', or by taking back what was
    said before. The whole text where none does, or where it is the first sentence.
    """
    sentences = split_sentences(text[-LONGEST:])
    for place in range(len(sentences) - 1, 0, -1):
        cue = CUE.search(sentences[place])
        taken_back = CORRECTION.search(sentences[place]) is not None and _sentence(sentences[place]) is not None
        if _OTHERWISE.match(sentences[place]):
            break
        if (cue is not None and sentences[place][cue.end() :].strip(" *.:")) or taken_back:
            return text[text.rindex(sentences[place]) :].strip()
    return text


_OTHERWISE = re.compile(r"\W*(?:[a-z]{2,9}\W+)?or\b", re.I)
"""'Hmm, or C': another answer beside the one before."""


def is_bare(text: str) -> bool:
    """Whether a text holds no prose: only formulas, numbers, units' symbols and the words of mathematics."""
    if len(text) > LONGEST_VALUE:
        return False
    text = _COMMAND.sub(" ", TEXT.sub(r"\1", text))
    return all(
        word[0] in MATH_WORDS or (word[0].isupper() and len(word[0]) < 5) or _is_product(text, word)
        for word in _WORD.finditer(text)
    )


def _is_product(text: str, word: re.Match[str]) -> bool:
    """Whether letters are a product between the signs of an expression, 'ab+bc', and no word and no unit."""
    before, after = text[: word.start()].rstrip()[-1:], text[word.end() :].lstrip()[:1]
    if len(word[0]) > 3 or word[0] in SHORT_WORDS or not (before or after) or after == "=":
        return False
    measure = read_measure(word[0])
    return (measure is None or not measure.powers) and before in "+-*/=()" and after in "+-*/^()"


def _bare(text: str) -> Claim:
    text = _ROUNDED_LAST.sub(r" ≈ \1", _ABOUT.sub("", _LINES.sub(", ", text)))
    problem = "hedged" if HEDGED.search(text) else None
    return Claim(() if problem else _worked_out(text), "value", problem)


def _worked_out(value: str) -> tuple[str, ...]:
    """'10 (5 × 2)' is 10 and 5 × 2."""
    worked = _WORKED.fullmatch(value)
    return (value,) if worked is None else (worked[1], worked[2])


_OPERATOR = r"[+*/×·]|\\times|\\cdot|\\binom|\d\s?-"
_WORKED = re.compile(
    rf"([^()\s]{{1,40}})\s+\(\s*+=?\s*+(?=[^()]*(?:{_OPERATOR}))((?:[\d\s.,{{}}+*/×·-]|\\times|\\cdot|\\binom)+)\)\.?"
)


def split_sentences(text: str) -> list[str]:
    """Sentences and lines, without cutting formulas."""
    formulas = [match.span() for match in FORMULA.finditer(text)] if "$" in text or "\\" in text else []
    pieces, start, at = [], 0, 0
    for gap in SENTENCE_END.finditer(text):
        while at < len(formulas) and formulas[at][1] <= gap.start():
            at += 1
        if at < len(formulas) and formulas[at][0] < gap.start() < formulas[at][1]:
            continue
        pieces.append(text[start : gap.start()])
        start = gap.end()
    return [piece for piece in [*pieces, text[start:]] if piece.strip(" *#\"'.-")]


def _sentence(sentence: str) -> _Found | None:
    """The claim of one sentence."""
    if is_bare(sentence):
        return _Found(_bare(sentence.rstrip(" .!*")), True) if VALUE.search(sentence) else None
    for cue in reversed(list(CUE.finditer(sentence))):
        if (claim := _at(sentence, cue.end(), "after a cue")) is not None:
            return _Found(claim, True)
    if (assigned := _ASSIGNED.search(sentence)) is not None:
        end = _value_end(sentence, assigned.start())
        if end is not None and end >= assigned.end():
            value = sentence[assigned.start() : end].strip(" .,;")
            return _Found(_judged(sentence, assigned.start(), end, value, "named values"), False)
    formulas = list(FORMULA.finditer(sentence))
    verbs = [verb for verb in VERB.finditer(sentence) if not _in_list(sentence, formulas, verb.start())]
    verbs = verbs[: -MAX_VERBS - 1 : -1]
    clause = SUBORDINATE.search(sentence)
    main = [verb for verb in verbs if clause is not None and verb.end() <= clause.start()]
    if clause is not None and not main and (claim := _at(sentence, 0, "only value")) is not None:
        return _Found(claim, True)
    for verb in [*main, *verbs]:
        if (claim := _at(sentence, verb.end(), "claimed")) is not None:
            if _DENIED_VERB.search(sentence, max(0, verb.start() - 14), verb.start()):
                claim = Claim((), "claimed", "denied")
            return _Found(claim, False)
    if formulas:
        return _Found(_formulas(sentence, formulas), False)
    value = NUMBER_WORDS.match(sentence) or VALUE.search(sentence)
    if value is not None and not (
        PLAIN_LEAD.fullmatch(sentence, 0, value.start()) or SUBJECT_VERB.fullmatch(sentence, 0, value.start())
    ):
        return _Found(Claim((), "only value", "no claim"), False)
    if value is not None and (claim := _at(sentence, value.start(), "only value")) is not None:
        return _Found(claim, value.start() == 0)
    return None


_DENIED_VERB = re.compile(r"(?:\b(?:never|not|hardly|neither|nor)|n't|\bno\slonger)\s$", re.I)


def _in_list(sentence: str, formulas: list[re.Match[str]], place: int) -> bool:
    """Whether a place is in the last two formulas, when both are of one unknown: '$x=1$ and $x=2$'."""
    if len(formulas) < 2 or not formulas[-2].start() < place < formulas[-1].end():
        return False
    names = [_UNKNOWN.match(formula[0]) for formula in formulas[-2:]]
    same = names[0] is not None and names[1] is not None and names[0][1] == names[1][1]
    return same and _JOINED.fullmatch(sentence, formulas[-2].end(), formulas[-1].start()) is not None


_UNKNOWN = re.compile(r"\W{0,4}([a-zA-Z])(?:_\{?\w\}?)?\s?=")


def _at(sentence: str, start: int, how: str) -> Claim | None:
    """The value that begins at `start`, but for filling words; None when none does."""
    filler = FILLER.match(sentence, start)
    start = filler.end() if filler else start
    while start < len(sentence) and sentence[start] in " *_\"'`\n":
        start += 1
    if (formula := FORMULA.match(sentence, start)) is not None:
        return _formulas(sentence, [formula, *_following(sentence, formula.end())], how)
    end = _value_end(sentence, start)
    return None if end is None else _judged(sentence, start, end, sentence[start:end].strip(" .,;:*!\"'`"), how)


def _following(sentence: str, end: int) -> list[re.Match[str]]:
    """Formulas that are joined to the one before by a comma, 'and' or 'or'."""
    more = []
    while (gap := _JOINED.match(sentence, end)) and (formula := FORMULA.match(sentence, gap.end())):
        more.append(formula)
        end = formula.end()
    return more


def _formulas(sentence: str, formulas: list[re.Match[str]], how: str = "formula") -> Claim:
    """The last formula of a sentence with those that are joined to it, as one value."""
    last = len(formulas) - 1
    while last > 0 and _JOINED.fullmatch(sentence, formulas[last - 1].end(), formulas[last].start()):
        last -= 1
    joined = formulas[last:]
    inside = [next(part for part in formula.groups() if part is not None) for formula in joined]
    start, end = joined[0].start(), joined[-1].end()
    unit_end = _unit_end(sentence, end)
    either = any("or" in sentence[a.end() : b.start()] for a, b in pairwise(joined))
    value = (" or " if either else ", ").join(part.strip(" .,") for part in inside)
    value = f"{value} {sentence[end:unit_end].strip()}".strip()
    return _judged(sentence, start, unit_end, value, how)


_ASSIGNED = re.compile(
    r"(?<![A-Za-z\\$])[a-zA-Z]\s?=\s?[^\s,;=$]{1,40}\s?(?:(?:,|;|and\s)\s?(?:and\s)?[a-zA-Z]\s?=\s?[^\s,;=$]{1,40}\s?){1,6}"
)
"""'x = 1, y = 2' in a sentence."""
_PHRASE = re.compile(r"(?:\s|\\[,;: ]|~|-)*(\S{1,40}(?:\s\S{1,40}){0,3})")
_SOLID = re.compile(r"\S+")
_SCALED = re.compile(
    r"\\?%|percent|per\scent|pct|(?:million|billion|thousand|hundred|dozen|lakh|crore)(?:\s[a-z]+)?|[万亿]|"
    rf"(?:{'|'.join(DENOMINATORS)})|"
    r"[ap]\.?m|[kKMB]",
    re.I,
)
_NO_UNITS = {"in", "as", "am", "a", "at", "an", "s", "cd"}


def _unit_end(sentence: str, start: int) -> int:
    """Where the unit, percent sign or magnitude behind a value ends; `start` when there is none."""
    phrase = _PHRASE.match(sentence, start)
    if phrase is None:
        return start
    ends = [word.end() for word in _SOLID.finditer(sentence, phrase.start(1), phrase.end())]
    for end in reversed(ends):
        words = sentence[phrase.start(1) : end].rstrip(".,;:!?)\"'*$")
        if _SCALED.fullmatch(words):
            return phrase.start(1) + len(words)
        if words in _NO_UNITS and (words != "in" or sentence[end:].strip()):
            continue
        measure = read_measure(words)
        if measure is not None and measure.powers:
            return phrase.start(1) + len(words)
    return start


_PIECE = re.compile(
    r"\\text\s?\{[^{}]*\}|\\[A-Za-z]+|([A-Za-z]{2,}(?:'[a-z]+)?|[aI](?=\s[a-z]{2})|[" + SCRIPTS + r"]+)|"
    r"\s{0,16}+\((?=[a-zA-Z ]{3,})"
)


def _value_end(sentence: str, start: int) -> int | None:
    """Where a value that begins at `start` ends: at the first word of prose. None when no value begins there."""
    if (spelled := NUMBER_WORDS.match(sentence, start)) is not None:
        return spelled.end()
    if VALUE.match(sentence, start) is None:
        return None
    end = start
    while (piece := _PIECE.search(sentence, end)) is not None:
        word = piece[1]
        if piece[0].lstrip().startswith("("):
            return piece.start()
        if word in ("or", "and", "in") and _continues(sentence, piece.end()):
            end = piece.end()
        elif word is not None and (word not in MATH_WORDS or word in ("or", "and", "in")):
            unit = _unit_end(sentence, piece.start())
            return unit if unit > piece.start() else piece.start()
        else:
            end = piece.end()
    return len(sentence)


def _continues(sentence: str, position: int) -> bool:
    """Whether a list goes on behind 'and' or 'or'."""
    rest = sentence[position : position + 40].lstrip()
    return VALUE.match(rest) is not None or rest.startswith(("$", "\\"))


def _judged(sentence: str, start: int, end: int, value: str, how: str) -> Claim:
    """The claim of a value, given what is around it in its sentence."""
    before, after = sentence[max(0, start - 40) : start], sentence[end : end + 300]
    if not value:
        return Claim((), how, "no value")
    if _ORDINAL.match(after):
        return Claim((), how, "an ordinal")
    if NEGATED.search(before) or DENIED.match(after):
        return Claim((), how, "denied")
    if (spelled := NUMBER_WORDS.fullmatch(value)) and spelled[0][-1:].isalpha() and _PART_OF.match(after):
        return Claim((), how, "a bound")
    if (
        BOUND.search(before)
        or (_ENDS.search(value) and OPERAND.match(after))
        or _TIMES.search(f"{value} {after.lstrip()[:6]}")
    ):
        return Claim((), how, "a bound")
    if HEDGED.search(value):
        return Claim((), how, "hedged")
    if len(_OPENING.findall(value)) < len(_CLOSING.findall(value)):
        value = value.rstrip(")")
    kept = NOT_CLAUSE.sub("", after)
    if (about := ROUNDED.match(kept)) is not None:
        return _unless_contradicted((f"{value} ≈ {about[1]}",), kept[about.end() :], how)
    if (again := _AGAIN.match(kept)) is not None and _starts_value(again[1]):
        return _unless_contradicted((value, again[1].strip()), kept[again.end() :], how)
    return _unless_contradicted(_worked_out(value), kept, how)


def _starts_value(text: str) -> bool:
    return not WAVERING.search(text) and (NUMBER_WORDS.match(text) or VALUE.match(text)) is not None


_ENDS = re.compile(r"[\d)}π%]$")
_PART_OF = re.compile(r"\s*of\s(?=[-\d$\\])")
"""'half of 3'."""
_TIMES = re.compile(r"\stimes\s(?:the|as|more)\b")
_OPENING, _CLOSING = re.compile(r"[(\[]"), re.compile(r"[)\]]")
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")
_ROUNDED_LAST = re.compile(rf"(?<=[^\s≈x])(?=\s*[,(]){ROUNDED.pattern}\.?$", re.I)
_AGAIN = re.compile(r"\s*[(=]\s*([^()=\s][^()=]{0,60}?)\s*(?:\)|$|(?==))")
"""A repetition behind the value: '8 (eight)'."""


def _unless_contradicted(values: tuple[str, ...], after: str, how: str) -> Claim:
    return Claim((), how, "two answers") if _contradicts(after) else Claim(values, how)


def _contradicts(text: str) -> bool:
    """Whether what follows a value offers another or takes it back."""
    if WAVERING.search(text):
        return True
    return EXPLAINED.match(text) is None and _DIGITS.search(text) is not None
