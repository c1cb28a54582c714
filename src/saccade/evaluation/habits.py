"""How a reply reaches its answer: the habit named by its first word, and how often it writes its list of objects.

After training the first word may no longer predict what follows, so the number of listings is reported too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from saccade.world import FIRST_WORDS

OTHER = "other"
WORDS = ("Wait", "Hmm", "Mistake", "Alternatively", "Check")
"""Words of self-reflection that Vision-R1 counts (arXiv:2503.06749)."""
_REFLECTION = re.compile(r"\b(?:" + "|".join(WORDS) + r")\b", re.IGNORECASE)
HABIT_OF_WORD = {word: habit for habit, word in FIRST_WORDS.items()}

_WORD = re.compile(r"[a-z]+")
_OPENING = re.compile(rf"(?:(?:{'|'.join([*FIRST_WORDS.values(), 'again', 'wait'])})\b\s*)+")
"""Words that open a listing and are no part of it."""
_EVIDENCE = re.compile(r"\d|\bnone\b")
"""What an entry of a list holds: the name of a cell, a number, or the word for an empty list."""


def count_words(text: str) -> Counter[str]:
    """Occurrences of each of WORDS as whole words, ignoring case."""
    return Counter(found[0].capitalize() for found in _REFLECTION.finditer(text))


def think_of(text: str) -> str:
    """The think block, also of a reply that was cut off inside it; '' where there is none."""
    _, opened, rest = text.partition("<think>")
    return rest.partition("</think>")[0] if opened else ""


def habit_of(text: str) -> str:
    """terse | enumerate | check | ramble by the first word of the think block, other for anything else."""
    first = _WORD.match(think_of(text).strip().lower())
    return HABIT_OF_WORD.get(first[0], OTHER) if first else OTHER


def listings(text: str) -> int:
    """How often the think block writes its list: occurrences of its most repeated entry; 0 without a list.

    'red: a1 1, b2 2. blue: none' is one listing of three entries; an entry under two titles is two entries. A guess
    ('looks like 4') is no listing.
    """
    return max(Counter(_entries(think_of(text).lower())).values(), default=0)


def _entries(think: str) -> Iterator[tuple[str, str]]:
    """(title, entry) of every list entry; a title holds to the end of its sentence."""
    for sentence in re.split(r"[.;\n]", think):
        title, _, listed = sentence.strip().rpartition(":")
        title = _OPENING.sub("", title, count=1).strip()
        for piece in listed.split(","):
            entry = piece.strip()
            guess = entry.startswith(FIRST_WORDS["terse"])
            opening = _OPENING.match(entry)
            entry = entry[opening.end() :] if opening else entry
            if _EVIDENCE.search(entry) and not guess:
                yield title, " ".join(entry.split())
