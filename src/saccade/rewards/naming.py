"""Names and options of rewards, built in or user-defined."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from saccade.types import Score


def is_file(name: str) -> bool:
    """True for a name of the form `path/to/file.py:function`."""
    return ".py:" in name


def as_score(value: float | Score) -> Score:
    """A reward's return value as a Score."""
    return value if isinstance(value, Score) else Score(float(value))


def check_options(name: str, signature: inspect.Signature, options: Mapping[str, Any]) -> None:
    """ValueError for an unknown option, and for a missing required one."""
    parameters = list(signature.parameters.values())[2:]
    known = [p.name for p in parameters]
    for option in options:
        if option not in known and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            raise ValueError(f"reward '{name}' has no option '{option}'{nearest(option, known)}")
    lacking = [p.name for p in parameters if p.default is p.empty and p.kind in _NAMED and p.name not in options]
    if lacking:
        raise ValueError(f"reward '{name}' needs the option '{lacking[0]}'; give it under options")


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def nearest(name: str, names: list[str]) -> str:
    """The end of an error about an unknown name."""
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(names) or 'none'}"
