"""The reward that a row of data names for its own answer. Rows are written by others, so they may name pure rewards
with plain options only: nothing that opens a file, an address or a process (docs/security.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saccade.rewards.table import PENALTIES, REACHES_OUT, WRAPPERS, bind, canonical
from saccade.types import Sample

ROW_REWARD = "reward"
"""Key of `Sample.meta` under which a row names the reward of its answer: a name, or {"name", "options"}."""
ROW_METHOD = "accu_reward_method"
"""The same key in VLM-R1's data; 'default' and 'llm' (a row has no server for a judge) use the rubric's reward."""
NESTED = 3
"""Rewards that a row may put inside each other."""
SHOWN = 120
"""Characters of a row's text that an error quotes."""

NamedReward = tuple[str, dict[str, Any]]
"""A name of `REWARDS` and its options."""


def row_reward(sample: Sample) -> NamedReward | None:
    """The reward that a row names, with its options. ValueError for one that rows may not name, and for malformed
    options; unknown names are found by `check_row`."""
    named = sample.meta.get(ROW_REWARD)
    if named is None:
        method = sample.meta.get(ROW_METHOD)
        named = None if method in (None, "default", "llm") else method
    if named is None:
        return None
    name, options = (named.get("name"), named.get("options") or {}) if isinstance(named, Mapping) else (named, {})
    unknown = isinstance(named, Mapping) and named.keys() - {"name", "options"}
    if not isinstance(name, str) or not isinstance(options, Mapping) or unknown:
        raise ValueError(f"{_at(sample)}: got reward {_shown(named)}, expected a name, or {{'name', 'options'}}")
    if problem := _not_allowed(name, options, NESTED):
        raise ValueError(f"{_at(sample)}: {problem}")
    return name, dict(options)


def check_row(sample: Sample) -> None:
    """ValueError, naming the row, when the reward that it names is unknown, invalid or not for rows."""
    named = row_reward(sample)
    if named is not None:
        try:
            bind(*named)
        except ValueError as error:
            raise ValueError(f"{_at(sample)}: {error}") from None


def _not_allowed(name: str, options: Mapping[Any, Any], depth: int) -> str | None:
    """Why a row may not name this reward; None if it may. The rewards inside a wrapping one are looked at too."""
    if depth == 0:
        return f"got rewards nested more than {NESTED} deep; expected one reward, or one inside another"
    table_name = canonical(name)
    if ".py" in name or table_name in PENALTIES or table_name in REACHES_OUT:
        return (
            f"got reward {_shown(name)}; a row may name one of REWARDS only, and none that runs a file or asks a "
            "server (a recipe may: put it into 'rubrics')"
        )
    wraps = table_name in WRAPPERS
    for key, value in options.items():
        if not isinstance(key, str) or not (_plain(value) or (wraps and key == "options")):
            return f"reward {_shown(name)}, option {_shown(key)}: got {_shown(value)}, expected plain values in a row"
    if not wraps:
        return None
    inner, inner_options = options.get("accuracy"), options.get("options") or {}
    if not isinstance(inner, str) or not isinstance(inner_options, Mapping):
        return f"reward {_shown(name)}: expected 'accuracy', the name of a reward, and its 'options'"
    return _not_allowed(inner, inner_options, depth - 1)


def _plain(value: Any) -> bool:
    """A number, a text, a switch, null, or a list of those."""
    one = value is None or isinstance(value, bool | int | float | str)
    return one or (isinstance(value, list | tuple) and all(isinstance(v, bool | int | float | str) for v in value))


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _at(sample: Sample) -> str:
    place = sample.meta.get("place")
    return f"{place}: sample {sample.id!r}" if isinstance(place, str) else f"sample {sample.id!r}"
