"""Reading yes or no, in English and Chinese; whole words only."""

from __future__ import annotations

import re

from saccade.parsing.markup import LONGEST, plain
from saccade.parsing.reading import Reading, found

_YES = {"yes", "true", "yeah", "yep", "是", "对", "是的", "没错"}
_NO = {"no", "false", "nope", "否", "不", "不是", "不对", "错"}
_ALONE = {"y": True, "n": False, "correct": True, "incorrect": False, "wrong": False, "right": True}
_ALONE |= {"正确": True, "不正确": False, "错误": False, "没有": False, "有": True}
_CHINESE = r"不正确|不是|不对|没错|没有|是的|正确|错误|[是对否不错]"
_WORD = re.compile(rf"[A-Za-z]+(?:'[a-z]+)?|{_CHINESE}")
_OPENING = re.compile(rf"\W*([A-Za-z]+|{_CHINESE})\s*(?:[,.;:!,。;:!-]|\n|$)")
_CUE = re.compile(r"答案(?:应该)?[是为]?\s*:?\s*(?=\S)|判断\s*:?")
_NOT = {"not", "isn't", "wasn't", "aren't", "never", "hardly"}


def read_yes_no(text: str) -> bool | None:
    """True for yes, False for no, None for neither or both; whole words only, so 'know' and 'not' say nothing.

    'Yes, there is no cat' is yes: an opening word that stands alone decides. 'yes or no' is None, 'not true' is no.
    """
    return parse_yes_no(text).value


def parse_yes_no(text: str) -> Reading[bool]:
    """As `read_yes_no`, with the rule or the reason. Takes any string; linear in its length."""
    text = _CUE.sub(" ", plain(text[-LONGEST:])).strip()
    if (said := _ALONE.get(text.casefold().rstrip(" .!。"))) is not None:
        return found(said, "word alone")
    opening = _OPENING.match(text)
    if opening and (said := _polarity(opening[1])) is not None:
        return found(said, "opening word")
    said_all, before = set(), ""
    for word in _WORD.findall(text):
        said = _polarity(word)
        if said is not None:
            flipped = before in _NOT and word.casefold() in ("true", "false")
            said_all.add(said != flipped)
        before = word.casefold()
    if len(said_all) == 1:
        return found(said_all.pop(), "word")
    return Reading(None, reason="both yes and no" if said_all else ("no yes or no" if text else "nothing"))


def _polarity(word: str) -> bool | None:
    word = word.casefold()
    return True if word in _YES else False if word in _NO else None
