"""How a reply goes about its answer: which habit its first word names, and how often it writes its list of objects.

After training the first word may no longer tell what follows, so the number of listings is reported beside it.
"""

from __future__ import annotations

import re
from collections import Counter

FIRST_WORDS = {"looks": "terse", "scan": "enumerate", "check": "check", "hmm": "ramble"}
"""First word of the world's chains of each habit."""
OTHER = "other"

_WORD = re.compile(r"[a-z]+")
_ENTRY = re.compile(r"(?:\b[a-z]\d{1,2}\b.*|\bnone\b)")
"""One entry of a list: from the name of a cell on ('a1 red', 'b3 2'), or the word for an empty list."""


def think_of(text: str) -> str:
    """The think block, also of a reply that was cut off inside it; '' where there is none."""
    _, opened, rest = text.partition("<think>")
    return rest.partition("</think>")[0] if opened else ""


def habit_of(text: str) -> str:
    """terse | enumerate | check | ramble by the first word of the think block, other for anything else."""
    first = _WORD.match(think_of(text).strip().lower())
    return FIRST_WORDS.get(first[0], OTHER) if first else OTHER


def listings(text: str) -> int:
    """How often the think block writes the list of objects: occurrences of its most repeated entry; 0 without a list.

    Entries are separated by commas, semicolons, full stops or lines; a title or a word before the cell's name
    ('again a1 1', 'red: a1 1') is no part of the entry.
    """
    pieces = re.split(r"[,;.\n]", think_of(text).lower())
    entries = (_ENTRY.search(piece.rpartition(":")[2]) for piece in pieces)
    return max(Counter(" ".join(entry[0].split()) for entry in entries if entry).values(), default=0)
