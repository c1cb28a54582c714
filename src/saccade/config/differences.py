"""What differs between two recipes as data, by dotted key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MISSING = "(nothing)"
"""In place of the value of a key that one of them lacks."""


def differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, before, now) of every difference between what `model_dump(mode="json")` gives."""
    if isinstance(before, list) and isinstance(now, list):
        before, now = dict(enumerate(before)), dict(enumerate(now))
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*before, *now]):
            dotted = f"{key}.{name}" if key else str(name)
            yield from differences(before.get(name, MISSING), now.get(name, MISSING), dotted)
    elif before != now:
        yield key, before, now


def short(value: Any) -> str:
    """A value within a line; of a hash, its beginning."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:12]}..." if len(text) == 64 else f"{text[:57]}..."
