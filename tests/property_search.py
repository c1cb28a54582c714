"""How widely property tests search: the same examples every time in `make test`, random and wider under `-m slow`.

A test says `@settings(max_examples=examples(300))` where 100 are too few or too many, and nothing where 100 will do.
"""

from __future__ import annotations

import re

from hypothesis import settings

WIDER = 10
"""How many times as many examples the random search tries."""

settings.register_profile("fixed", derandomize=True, deadline=None, database=None, max_examples=100)
settings.register_profile("random", deadline=None, database=None, max_examples=100 * WIDER, print_blob=True)


def asks_for_slow(mark_expression: str) -> bool:
    """True for `-m slow` and `-m 'slow and not gpu'`, not for `-m 'not slow'`."""
    return re.search(r"(?<!not )\bslow\b", mark_expression) is not None


def examples(fixed: int, random: int | None = None) -> int:
    """The number of examples under the loaded profile; the random search tries ten times as many unless given."""
    if settings.get_current_profile_name() == "random":
        return WIDER * fixed if random is None else random
    return fixed
