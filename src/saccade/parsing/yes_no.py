"""Reading yes or no, in English and Chinese; whole words only, with negation."""

from __future__ import annotations

import re

from saccade.parsing.claim_words import EVASIVE
from saccade.parsing.markup import LONGEST, plain
from saccade.parsing.reading import Reading, found

_YES = {"yes", "true", "yeah", "yep", "yup", "affirmative", "是", "对", "是的", "没错", "没有错"}
_NO = {"no", "false", "nope", "nah", "untrue", "否", "不", "不是", "不对", "错", "没有"}
_ALONE = {"y": True, "n": False, "correct": True, "incorrect": False, "wrong": False, "right": True, "never": False}
_ALONE |= {"negative": False, "正确": True, "不正确": False, "错误": False, "有": True}
_CHINESE = r"没有错|不正确|不是|不对|没错|没有|是的|正确|错误|[是对否不错]"
_WORD = re.compile(rf"[A-Za-z]+(?:'[a-z]+)?|{_CHINESE}")
_OPENING = re.compile(rf"\W*([A-Za-z]+|{_CHINESE})\s*(?:[,.;:!,。;:!-]|\n|$)")
_CUE = re.compile(r"答案(?:应该?)?[是为]?\s*(?::\s*)?(?=\S)|判断\s*:?")
_SHORT = re.compile(
    r"(?:no, |yes, |of course,? )?"
    r"(?:the (?:statement|claim|answer) |it|there|they|he|she|this|that|these|those)"
    r"(?:'s|'re|\s?(?:is|are|was|were|does|do|did|has|have|can|will))(?P<no>\s?not|n't)?"
    r"(?:\s(?:right|correct|(?P<wrong>wrong|incorrect)|(?<!n't\s)(?<!not\s)(?P<none>none)|"
    r"(?:(?<=n't\s)|(?<=not\s))any(?: \w+)?))?"
    r"[.!]?|"
    r"I\s(?:(?P<doubt>do\s?n[o']t|do not)\s)?(?:think|believe|guess|suppose)\sso[.!]?",
    re.I,
)
"""A clause that says no more than yes or no: 'it is', 'that's wrong', 'I don't think so'."""
_IDLE = re.compile(r"\bno\s(?:idea|clue|doubt|problem|matter|wonder|need)\b", re.I)
"""A 'no' that denies nothing."""
_DENIED = re.compile(
    r"\b(?:yes|no|true|false)\b[\"']?\s(?:is|was)\s(?:not\s(?:the|right|correct)|wrong|incorrect)\b", re.I
)
"""'Yes is not the answer.'"""
_ADVERB = re.compile(
    r"(?:absolutely|certainly|definitely|of\scourse|sure(?:ly)?|indeed|obviously)(?P<no>\snot)?[.!]?|"
    r"(?P<never>not\s(?:at\sall|really)|by\sno\smeans)[.!]?",
    re.I,
)
_NOT = {"not", "isn't", "wasn't", "aren't", "never", "hardly"}
_DOUBT = {
    "cannot",
    "can't",
    "wouldn't",
    "couldn't",
    "don't",
    "maybe",
    "perhaps",
    "possibly",
    "probably",
    "either",
    "if",
    "whether",
}
_UNSURE = {"maybe", "perhaps", "possibly"}
REACH = 3
"""Words in front of a yes or no in which a doubt makes it none."""


def read_yes_no(text: str) -> bool | None:
    """True for yes, False for no, None for neither or both; whole words only, so 'know' and 'not' say nothing.

    'Yes, there is no cat' is yes: an opening word that is a clause of its own decides. 'yes or no' is None, 'not true'
    and 'it is not' are no, 'I would not say no' is None.
    """
    return parse_yes_no(text).value


def parse_yes_no(text: str) -> Reading[bool]:
    """As `read_yes_no`, with the rule or the reason. Takes any string; linear in its length."""
    text = _IDLE.sub(" ", _CUE.sub(" ", plain(text[-LONGEST:]))).strip()
    if (said := _ALONE.get(text.casefold().rstrip(" .!。"))) is not None:
        return found(said, "word alone")
    if _DENIED.search(text) is not None:
        return Reading(None, reason="denied")
    if EVASIVE.search(text) is not None:
        return Reading(None, reason="hedged")
    if (adverb := _ADVERB.fullmatch(text)) is not None:
        return found(adverb["no"] is None and adverb["never"] is None, "adverb")
    if (short := _SHORT.fullmatch(text)) is not None:
        return found(sum(map(bool, short.groups())) % 2 == 0, "short clause")
    opening = _OPENING.match(text)
    if opening and (said := _polarity(opening[1])) is not None:
        rest = text[opening.end() :].strip(" .!?。")
        if _polarity(rest) in (None, said):
            return found(said, "opening word")
    said_all = _said(_WORD.findall(text))
    if len(said_all) == 1 and None not in said_all:
        return found(bool(said_all.pop()), "word")
    said_all.discard(None)
    return Reading(None, reason="both yes and no" if said_all else ("no yes or no" if text else "nothing"))


def _said(words: list[str]) -> set[bool | None]:
    """What the words say, None for a yes or no in doubt; a negation right before one turns it round."""
    said_all: set[bool | None] = {None} if not _UNSURE.isdisjoint(map(str.casefold, words)) else set()
    folded = [word.casefold() for word in words]
    for place, word in enumerate(folded):
        said = _polarity(word)
        if said is None:
            continue
        if place and folded[place - 1] in _NOT:
            said_all.add(not said)
        else:
            doubted = not _DOUBT.isdisjoint(folded[max(0, place - REACH) : place])
            said_all.add(None if doubted or folded[max(0, place - 2) : place] == ["not", "say"] else said)
    return said_all


def _polarity(word: str) -> bool | None:
    word = word.casefold()
    return True if word in _YES else False if word in _NO else None
