"""Reading the letter of a choice. An answer that hedges, lists or contradicts itself reads as None."""

from __future__ import annotations

import re
from collections.abc import Sequence

from saccade.parsing.markup import LONGEST, fold, plain
from saccade.parsing.reading import Reading, found

LETTERS = "ABCDEFGHIJ"

_HEDGE = re.compile(
    r"\s*[)\]]?\s*(?:\bor\b|\band\b|\bnor\b|/|&|,|、|或者?|和|与|(?=\([A-Za-z]\)))\s*(?:option\s)?"
    r"[(\[]?([A-Za-z])[)\]]?(?![A-Za-z])",
    re.I,
)
_ALONE = re.compile(r"[(\[{<\"'`“‘「]*([A-Za-z])[)\]}>\"'`”’」]*\s*[.:,;!?。]?[\"'`*]*")
_LEADING = re.compile(r"[(\[{<]?([A-Za-z])([)\]}>]?\s*(?:[).:,、-]|\s))\s*(\S.*)", re.DOTALL)
_LISTED = re.compile(r"(?:^|[\s,;(])[A-Z]\s*[).:](?=\s)")
_CUE = re.compile(
    r"\b(?:answers?|ans|result|(?:correct|right|best|final)\s+(?:option|choice))"
    r"(?:\s+(?:is|would\s+be|should\s+be|must\s+be))?\s*[:=]?\s*(?:(?:option|choice)\s+)?"
    r"|\b(?:choose|pick|select|go\s+with)\s+(?:(?:option|choice)\s+)?|(?:答案|应选|故选|选择|选)(?:应?该?[是为])?\s*:?\s*",
    re.I,
)
_WEAK_CUE = re.compile(r"\b(?:option|choice)(?:\s+is)?\s*[:=]?\s*|\bis\s*:?\s*|选项\s*:?\s*", re.I)
_SO = re.compile(r"\b(?i:therefore|thus|hence|so)\b\s?[,:]?\s?[(\[]?([A-Z])[)\]]?\s?(?:[.!]|$)", re.MULTILINE)
_AFTER_CUE = re.compile(r"[\"'`*\[{<(]*(?:([A-Z])(?![A-Za-z'])|([a-z])(?=\s*(?:[)\].,;:!]|$)))[)\]}>]?")
_BEFORE_CUE = re.compile(
    r"(?<![A-Za-z.])[(\[]?([A-Z])[)\]]?\s?"
    r"(?:选项|正确|(?:is|was)\s(?:the\s)?(?:only\s)?(?:correct|right|best|true)\b(?!\s?\?))"
)
_UNSAID = re.compile(
    r"(?:\b(?:not|nor|neither|never|isn't|cannot|or|and)|[&,]|不是?|非|或|和)\s?(?:option\s)?[(\[]?$", re.I
)
_REFUSED = re.compile(r"[)\]]?\s?(?:(?:is|are|was|seems)\s)?(?:not|n't|wrong|incorrect|false|cannot|错|不)", re.I)


def read_choice(text: str, letters: Sequence[str] = LETTERS, options: Sequence[str] = ()) -> str | None:
    """The letter that an answer picks, upper case, or None when it picks none or more than one; see `parse_choice`."""
    return parse_choice(text, letters, options).value


def parse_choice(text: str, letters: Sequence[str] = LETTERS, options: Sequence[str] = ()) -> Reading[str]:
    """The letter that an answer picks, by which rule; or the reason why none can be read.

    Reads 'B', 'b', '(B)', '[B]', 'B.', 'B) foo', 'The answer is B', 'B is correct', 'Therefore, B.', '故选B', 'B选项',
    and the text of exactly one option, alone or after 'the answer is'. With options given, 'B) foo' counts only if foo
    is not the text of another option. Takes any string; linear in its length.
    """
    text = plain(text[-LONGEST:])
    if not text:
        return Reading(None, reason="nothing")
    allowed = {letter.upper() for letter in letters}
    texts = {}
    for letter, option in zip(letters, options, strict=False):
        texts.setdefault(fold(option), []).append(letter.upper())
    reason = "no letter"
    for read, how in _RULES:
        picked = read(text, texts)
        if picked in allowed:
            return found(picked, how)
        reason = ("not a letter of the options" if len(picked) == 1 else picked) if picked else reason
    return Reading(None, reason=reason)


_Texts = dict[str, list[str]]
"""Folded text of an option -> the letters that have it."""


def _leading(text: str, texts: _Texts) -> str | None:
    """'B' and its kin as the whole text, or in front of the option's text. A rule gives a letter, a reason, or None."""
    if alone := _ALONE.fullmatch(text):
        return alone[1].upper()
    leading = _LEADING.fullmatch(text)
    if leading is None:
        return None
    if _HEDGE.match(text, leading.end(1)):
        return "hedged"
    letter, owners = leading[1].upper(), texts.get(fold(leading[3]), [])
    if owners:
        return letter if letter in owners else "letter and text disagree"
    if not set(leading[2]) & set(")]}>.:"):  # 'A cat': a letter and a space need the option's text behind them
        return None
    return "lists several" if _LISTED.search(leading[3]) else letter  # 'A) red B) blue' names them all


def _option(text: str, texts: _Texts) -> str | None:
    """The letter of the one option whose text this is."""
    folded = fold(text)
    return _owner(texts.get(folded, [])) if folded else None


def _owner(letters: list[str]) -> str | None:
    if not letters:
        return None
    return letters[0] if len(letters) == 1 else "options with the same text"


def _cued(text: str, texts: _Texts) -> str | None:
    """The letter, or the option's text, after the last 'answer is' or the like that is followed by one."""
    return _after(_CUE, text, texts)


def _weakly_cued(text: str, texts: _Texts) -> str | None:
    """The letter after the last 'option', 'is' or 'therefore'."""
    return _after(_WEAK_CUE, text, texts) or next((m[1] for m in reversed(list(_SO.finditer(text)))), None)


def _after(cues: re.Pattern[str], text: str, texts: _Texts) -> str | None:
    picked = None
    for cue in cues.finditer(text):
        letter = _AFTER_CUE.match(text, cue.end())
        if texts and (owners := _stated(text, cue.end(), texts)) and not _names_an_option(letter, text, texts):
            picked = _owner(owners)
        elif letter is not None and not _REFUSED.match(text, letter.end()):
            picked = _judged(text, letter, texts)
    return picked


def _stated(text: str, start: int, texts: _Texts) -> list[str]:
    """The letters of the option whose text stands from `start` to the end of the line, or of the clause."""
    line = text[start : start + 200].partition("\n")[0]
    return texts.get(fold(line.strip(" \"'`*.:"))) or texts.get(fold(_clause(text, start))) or []


def _names_an_option(letter: re.Match[str] | None, text: str, texts: _Texts) -> bool:
    """A lone letter of the options names one even where it is also the text of another."""
    if letter is None or re.match(r"[\s.,;:!]*(?:\n|$)", text[letter.end() : letter.end() + 20]) is None:
        return False
    return any((letter[1] or letter[2]).upper() in owners for owners in texts.values())


def _judged(text: str, letter: re.Match[str], texts: _Texts) -> str:
    if _HEDGE.match(text, letter.end()):
        return "hedged"
    said = (letter[1] or letter[2]).upper()
    owners = texts.get(fold(_clause(text, letter.end()))) if texts else None
    return said if not owners or said in owners else "letter and text disagree"


def _clause(text: str, start: int) -> str:
    """From `start` to the end of the line or sentence; 200 characters at most, so that many cues stay cheap."""
    part = text[start : start + 200].lstrip(" \"'`*.):,-")
    return _CLAUSE_END.split(part, maxsplit=1)[0].strip(" \"'`*")


_CLAUSE_END = re.compile(r"\n|\.\s|;|。|,\s(?=not|because|since|so)")


def _ahead(text: str, texts: _Texts) -> str | None:
    """The letter in 'B is correct' and 'B选项', unless another is called so too."""
    said = {m[1] for m in _BEFORE_CUE.finditer(text) if not _UNSAID.search(text[max(0, m.start() - 16) : m.start()])}
    return said.pop() if len(said) == 1 else ("hedged" if said else None)


_RULES = (
    (_leading, "letter"),
    (_option, "option text"),
    (_cued, "after a cue"),
    (_ahead, "before a cue"),
    (_weakly_cued, "after a weak cue"),
)
"""In this order; the first that gives a letter decides."""
