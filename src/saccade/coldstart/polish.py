"""Rewrites a chain written from a description as if the image had been seen. What cannot be rewritten is reported.

The thought is edited in place, sentence by sentence: 'the description says' becomes 'the image shows', and a matrix
clause that would double the verb is dropped ('the description says the image shows a cat'). Code and formulas are
skipped, and no rule can change a number or a box: all rules match words only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from saccade.coldstart.phrases import (
    ADVERBS,
    BLIND,
    BLOCKING,
    COMPLEMENTS,
    EXEMPT,
    NOUN,
    PICTURE,
    PROTECTED,
    SAYING,
    SEEING,
    VISUAL,
    saying_as_showing,
)

MASK = "\ue000"
ROUNDS = 6
"""Rules are applied until nothing changes; a sentence needs one round, rarely two."""


@dataclass(frozen=True, slots=True)
class TextChange:
    """One piece of text before and after."""

    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Polished:
    """The polished text, the changes, and the references that remain."""

    text: str
    changes: tuple[TextChange, ...]
    left: tuple[str, ...]


def polish(text: str) -> Polished:
    """Total and idempotent. A sentence that cannot be rewritten completely is left unchanged."""
    changes: list[TextChange] = []
    pieces = []
    source_mentioned = False
    for piece in _sentences(text):
        after = _polish_sentence(piece, source_mentioned)
        if after != piece:
            changes.append(TextChange(piece.strip(), after.strip()))
        source_mentioned = _mentions_source(piece)
        pieces.append(after)
    whole = "".join(pieces)
    return Polished(whole, tuple(changes), references(whole))


def references(text: str) -> tuple[str, ...]:
    """The places where a text mentions its description or says that its writer cannot see."""
    found = []
    for piece in _sentences(text):
        mask = masked(piece)
        match = _SOURCE.search(mask) or BLIND.search(mask)
        if match:
            start, end = max(0, match.start() - 30), match.end() + 30
            found.append(" ".join(piece[start:end].split()))
    return tuple(found)


def masked(text: str) -> str:
    """Masks code, formulas and descriptions of other things (of a job, of a problem); the length is unchanged."""
    for pattern in (*PROTECTED, *EXEMPT):
        text = pattern.sub(lambda found: MASK * len(found[0]), text)
    return text


_SOURCE = re.compile(r"\b(?:descriptions?|captions?|described scene)\b", re.IGNORECASE)
_END = re.compile(r"(?<=[.?!])[ \t]+|\n+")


def _sentences(text: str) -> Iterator[str]:
    """Sentences with their trailing space; joined they equal the text. Protected spans are never cut."""
    start = 0
    for gap in _END.finditer(masked(text)):
        yield text[start : gap.end()]
        start = gap.end()
    if start < len(text):
        yield text[start:]


def _mentions_source(sentence: str) -> bool:
    return bool(_SOURCE.search(masked(sentence)))


def _polish_sentence(sentence: str, source_mentioned: bool) -> str:
    original = sentence
    for _ in range(ROUNDS):
        after = _round(sentence, source_mentioned)
        if after == sentence:
            return after
        sentence = after
    return original


def _round(sentence: str, source_mentioned: bool) -> str:
    for rule in UNNESTING:
        sentence = rule.apply(sentence)
    if not _is_blocked(sentence):
        for rule in REWORDING:
            sentence = rule.apply(sentence)
        if source_mentioned:
            sentence = _IT_SAYS.apply(sentence)
    return _COLLAPSE.apply(sentence)


def _is_blocked(sentence: str) -> bool:
    """True where replacing the description by 'the image' would change or break the meaning."""
    mask = masked(sentence)
    if not _SOURCE.search(mask):
        return False
    if BLOCKING.search(mask):
        return True
    return bool(_PICTURE_WORD.search(re.sub(NOUN, "", mask, flags=re.IGNORECASE)))


_PICTURE_WORD = re.compile(r"\b(?:images?|pictures?|photos?|photographs?)\b", re.IGNORECASE)


# ------------------------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True, slots=True)
class PolishRule:
    """A pattern over words and its replacement. The first letter keeps its case."""

    pattern: re.Pattern[str]
    write: Callable[[re.Match[str]], str]

    def apply(self, text: str) -> str:
        pieces, start = [], 0
        for match in self.pattern.finditer(masked(text)):
            pieces += [text[start : match.start()], _in_case_of(match[0], self.write(match))]
            start = match.end()
        return "".join([*pieces, text[start:]])


def _in_case_of(before: str, after: str) -> str:
    if before.isupper() and len(before) > 1:
        return after.upper()
    return after[:1].upper() + after[1:] if before[:1].isupper() else after


def _rule(pattern: str, write: str | Callable[[re.Match[str]], str]) -> PolishRule:
    """`{noun}`, `{say}` etc. are replaced by their patterns; `write` may refer to groups by `\\1`."""
    names = {"noun": NOUN, "say": SAYING, "visual": VISUAL, "see": SEEING, "picture": PICTURE}
    names |= {"told": _TOLD, "verb": _VERB}
    for name, value in names.items():
        pattern = pattern.replace("{" + name + "}", value)
    compiled = re.compile(pattern, re.IGNORECASE)
    return PolishRule(compiled, (lambda match: match.expand(write)) if isinstance(write, str) else write)


_VERB = rf"(?P<between>{ADVERBS})(?P<say>{SAYING})(?P<tail> so\b| nothing about\b| (?:us|me|you) about\b| about\b)?"
_TOLD = r"(?:described|mentioned|stated|listed|noted|specified|reported|written|recorded|said)"


def _image(match: re.Match[str]) -> str:
    """The noun phrase of the description as one of the image, with its article and number."""
    words = match["det"].lower() if match["det"] else "the"
    if words in ("your", "our") or words.endswith(("'s", "\u2019s")):
        words = "the"
    kept = (match["kept"] or "").lower()
    head = "images" if match["head"].lower().endswith("s") else "image"
    if words in ("a", "an"):
        words = "an" if (kept or head)[0] in "aeiou" else "a"
    return f"{words} {kept}{head}"


def _subject(match: re.Match[str]) -> str:
    """'the description clearly says that' -> 'the image clearly shows that'."""
    return f"{_image(match)}{_shows(match)}"


def _tail(match: re.Match[str]) -> str:
    return (match["tail"] or "").lower()


def _about(match: re.Match[str]) -> str:
    """'The description of the image' becomes 'the image', 'the description of the cat' 'the picture of the cat'."""
    if match["visual"]:
        return f"{match['of']} {match['visual']}{_shows(match)}"
    det = (match["det"] or "the").lower()
    if det in ("your", "our", "an") or det.endswith(("'s", "\u2019s")):
        det = "a" if det == "an" else "the"
    return f"{det} picture of {match['of']}{_shows(match)}"


def _shows(match: re.Match[str]) -> str:
    """The verb of saying after a subject, as a verb of showing; '' if there is none."""
    if not match["say"]:
        return ""
    between = match["between"]
    return f"{between}{saying_as_showing(match['say'], between)}{COMPLEMENTS.get(_tail(match), _tail(match))}"


def _read_as_look(match: re.Match[str]) -> str:
    """Reading a description becomes looking at an image; rereading becomes looking again."""
    verb, before = match["read"].lower().replace("-", ""), (match["aux"] or "").lower().strip()
    again = verb.startswith("re") and verb not in ("read", "reads", "reading")
    if verb.endswith("ing"):
        form = "looking"
    elif verb.endswith("s"):
        form = "looks"
    elif before and before not in ("i", "we"):
        form = "looked" if before.split()[-1].endswith(("have", "has", "had", "'ve", "\u2019ve")) else "look"
    else:
        form = "looked"
    return f"{match['aux'] or ''}{form} at {_image(match)}{' again' if again else ''}"


def _shown_as(match: re.Match[str]) -> str:
    """'the picture is described as showing' -> 'the picture shows'."""
    forms = {"showing": "shows", "depicting": "depicts", "having": "has", "containing": "contains"}
    return f"{match['thing']} {forms[match['ing'].lower()] if match['ing'] else 'shows'}"


_TO_REST = r"(?P<rest>(?:the|this)\s+{visual}\s+(?:{see}|has|is)\b)"
UNNESTING = (
    _rule(r"{noun}\s+of\s+(?P<of>the|this|that|each|an?)\s+(?P<visual>{picture})\b(?:{verb})?", _about),
    _rule(
        r"{noun}(?:\s+(?:also|then|clearly|explicitly))?\s+{say}(?:\s+that)?\s+" + _TO_REST,
        r"\g<rest>",
    ),
    _rule(r"{noun}\s+{say}\s+that\s+(?P<rest>in\s+(?:the|this)\s+{visual}\b)", r"\g<rest>"),
    _rule(
        r"(?:according to|based on|from|in|as per|per|judging (?:by|from)|going by)\s+{noun},?\s+" + _TO_REST,
        r"\g<rest>",
    ),
)
"""For sentences that already mention the picture itself."""

_IT_SAYS = _rule(
    r"(?<![\w.,;:] )\b(?P<it>it)(?P<adverbs>(?:\s+(?:also|then|clearly|explicitly|just|only))?\s+)(?P<say>{say})\b",
    lambda match: f"{match['it']}{match['adverbs']}{saying_as_showing(match['say'], '')}",
)

REWORDING = (
    _rule(
        r"\bin\s+{noun},?\s+it\s+(?P<say>{say})\b",
        lambda match: f"{_image(match)} {saying_as_showing(match['say'], '')}",
    ),
    _rule(
        r"\b(?P<who>I|we)(?: am|'m|\u2019m| are|'re|\u2019re| were| was) told (?:in|by|from) {noun}",
        lambda match: f"{match['who']} see in {_image(match)}",
    ),
    _rule(r"\bI(?: am|'m|\u2019m) told\b", "I see"),
    _rule(r"\bI was told\b", "I saw"),
    _rule(r"\bI(?: have|'ve|\u2019ve) been told\b", "I have seen"),
    _rule(
        r"\b(?P<no>no|any) mention of (?P<what>[\w' -]{1,60}?) in {noun}",
        lambda match: f"{match['no']} sign of {match['what']} in {_image(match)}",
    ),
    _rule(r"\bno\s+descriptions?\s+of\b", "no sign of"),
    _rule(r"{noun}\s+(?:given|provided)\s+is\s+that\b", lambda match: f"{_image(match)} shows that"),
    _rule(r"{noun}\s+makes?\s+no\s+mention\s+of\b", lambda match: f"{_image(match)} shows no sign of"),
    _rule(
        r"(?P<aux>\b(?:let me|to|should|must|can|could|will|would|I(?:'ve|\u2019ve| have| had)|having|I|we)\s+)?"
        r"\b(?P<read>re-?read(?:ing|s)?|read(?:ing|s)?)\s+{noun}",
        _read_as_look,
    ),
    _rule(
        r"\bas\s+(?:clearly\s+|explicitly\s+|already\s+)?(?:{told}|given|shown)\s+(?:in|by|within|from)\s+{noun}",
        lambda match: f"as shown in {_image(match)}",
    ),
    _rule(
        r"\b{told}(?:\s+(?:explicitly|clearly|anywhere))?\s+(?:in|by|within|from)\s+{noun}",
        lambda match: f"shown in {_image(match)}",
    ),
    _rule(r"\b(?:as per|per)\s+{noun}", lambda match: f"in {_image(match)}"),
    _rule(
        r"{noun}\s+of\s+(?P<of>(?:the|this|that|a|an|each|both|these|those)(?:\s+[\w-]+){1,2}?)(?P<visual>)(?:{verb})",
        _about,
    ),
    _rule(
        r"{noun}\s+of\s+(?P<of>(?:the|this|that|a|an|each|both|these|those)\b)(?P<visual>)(?P<between>)(?P<say>)(?P<tail>)",
        _about,
    ),
    _rule(r"{noun}{verb}", _subject),
    _rule(r"{noun}", _image),
    _rule(
        r"\b(?P<thing>(?:the|this)\s+{visual})\s+(?:is|was)\s+described\s+as(?:\s+(?P<ing>showing|depicting|having|containing)\b)?",
        _shown_as,
    ),
    _rule(r"\bas\s+you\s+(?:described|said|mentioned|wrote|told me)\b", "as shown"),
    _rule(r"\bas\s+described\b(?!\s+(?:by|with|using|on|at|for)\b)", "as shown"),
    _rule(
        r"\b(?P<be>is|are|was|were|been|being|be|isn't|aren't|wasn't|weren't)(?P<not>\s+not)?\s+described"
        r"(?=\s+(?:as|to be|to have|here|above|that|is|are)\b|\s*[.,;:!?)]|\s*$)",
        r"\g<be>\g<not> shown",
    ),
    _rule(r"\b(?P<what>what(?:'|\u2019)s)\s+described\b", r"\g<what> shown"),
    _rule(r"\b(?P<thing>(?:the|this)\s+{visual})\s+described(?=\s*[,.])", r"\g<thing> shown"),
    _rule(r"\bthe\s+described\b(?=\s+\w)", "the depicted"),
    _rule(
        r"(?<!\bI )(?<!\bwe )(?<!\byou )(?<!\bhe )(?<!\bshe )(?<!\bthey )(?<!\bit )(?<!\bas )(?<=\w )"
        r"described(?=\s+(?:above|earlier|here|are|is|were|was)\b)",
        "shown",
    ),
)
"""In this order; the longest match of a phrase first."""

_COLLAPSE = _rule(
    r"\b(?P<first>{see})\s+(?:(?P=first)\b|(?:depicts|illustrates|portrays|represents)\b"
    r"|(?:shows|displays)\b(?=\s+(?:a|an|the|that|this|how|two|three|four|five|six)\b))",
    r"\g<first>",
)
"""Two verbs of showing in a row. 'Shows displays of fruit' does not match: a verb would be followed by its object."""
