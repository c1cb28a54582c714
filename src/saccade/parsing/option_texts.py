"""The texts of the options of a choice, in the form in which answers are compared with them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from saccade.parsing.markup import fold

Texts = dict[str, list[str]]
"""Folded text of an option -> the letters that have it."""


def texts_of(letters: Sequence[str], options: Sequence[str]) -> Texts:
    """The texts of the options, whole and shortened."""
    texts: Texts = {}
    for letter, option in zip(letters, options, strict=False):
        texts.setdefault(key_of(own_text(letter, option)), []).append(letter.upper())
    for text, owners in list(texts.items()):
        texts.setdefault(shortened(text), owners)
    return texts


def key_of(text: str) -> str:
    """A text as options are compared: folded, without outer quotes and closing marks."""
    return fold(text).strip(" \"'.!,;:")


def shortened(key: str) -> str:
    """Without an article; 'none of these options' as 'none of the above'."""
    above = _ABOVE.fullmatch(key)
    return f"{above[1]} of the above" if above else _ARTICLES.sub("", key)


_ABOVE = re.compile(
    r"(none|all|both|any)(?: of)? "
    r"(?:(?:the|these|those)(?: (?:above|listed|given|provided|other))?|them|the(?: \w+)? above)"
    r"(?: (?:options?|answers?|choices?|ones?|statements?))?"
    r"(?: (?:above|listed|given|provided|(?:is|are) (?:correct|right|true)))?"
)
_ARTICLES = re.compile(r"^(?:the|an?|it)\s(?=\w)")


PREPOSITION = re.compile(r"^(?:on|in|to|at)\s(?=\w)")
"""In front of an option's text, which has none itself: 'on the left'."""


def own_text(letter: str, option: str) -> str:
    """An option's text without its own letter in front: 'red' of 'A. red'."""
    match = re.match(rf"\s*[(\[]?{re.escape(letter)}(?:[)\]]\s*[.:]?|\s*[.:、])\s*(?=\S)", option, re.I)
    return option[match.end() :] if match else option


def stem(key: str) -> str:
    """Without the s of verbs and plurals, where there are letters at all."""
    return _ENDING.sub("", key)


_ENDING = re.compile(r"(?<=[a-z]{3})(?<!s)s\b")
