"""The page of all rewards, written from their docstrings: `python -m saccade.rewards.reference > docs/rewards.md`."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from typing import Any

from saccade.rewards.table import ALIASES, PENALTIES, REWARDS, Reward

HEAD = """# Rewards

Written by `python -m saccade.rewards.reference` from the docstrings; a test holds the two equal.

A reward is a function of a reply and its sample, in [0, 1]; a penalty is the same in [-1, 0]. Both are defined on any
text whatever. A rubric weighs them (`docs/algorithms.md`); a failure of our own code masks the reply and is never a 0.
Names under `vlm_r1/` count as VLM-R1's released code does, oddities and all, to be compared with; the plain names are
the repaired ones. A reward of your own is `path/to/file.py:function`.

The option `where` says where an answer may stand: `tag` is the last answer tag after all thought; `boxed` the last
`\\boxed{..}` after it; `final` where evaluation finds it (the tag, the box, a line 'Final answer:', the rest).
"""
FIELDS = ("Formula", "Source")


class Entry:
    """What the docstring of a reward says."""

    def __init__(self, name: str, function: Reward) -> None:
        """ValueError when the docstring lacks a formula or a source."""
        text = inspect.getdoc(function) or ""
        parts = re.split(rf"\n({'|'.join(FIELDS)}): ", text)
        self.name, self.text = name, parts[0].strip()
        self.fields = {key: " ".join(value.split()) for key, value in zip(parts[1::2], parts[2::2], strict=True)}
        lacking = [key for key in FIELDS if key not in self.fields]
        if lacking or not self.text:
            raise ValueError(f"the docstring of reward '{name}' has no {lacking[0] if lacking else 'text'}")
        self.options = list(inspect.signature(function).parameters.values())[2:]

    @property
    def anchor(self) -> str:
        return re.sub(r"[^\w-]", "", self.name.lower())


def page() -> str:
    """The whole page."""
    parts = [HEAD, _aliases()]
    for title, low, high, table in (("Rewards", 0, 1, REWARDS), ("Penalties", -1, 0, PENALTIES)):
        entries = [Entry(name, function) for name, function in table.items()]
        parts.append(f"## {title}, in [{low}, {high}]\n\n" + _table(entries))
        parts += [_section(entry, low, high) for entry in entries]
    return "\n".join(parts)


def _aliases() -> str:
    names = ", ".join(f"`{alias}` is `{name}`" for alias, name in ALIASES.items())
    return f"VLM-R1's names may stand wherever a name may, for what is repaired here: {names}.\n"


def _table(entries: list[Entry]) -> str:
    rows = [f"| [`{one.name}`](#{one.anchor}) | {_formula(one).replace('|', chr(92) + '|')} |" for one in entries]
    return "\n".join(["| name | formula |", "|---|---|", *rows, ""])


def _formula(entry: Entry) -> str:
    return f"`{entry.fields['Formula'].removesuffix('.')}`"


def _section(entry: Entry, low: int, high: int) -> str:
    lines = [f"### {entry.name}", "", *_wrapped(entry.text), ""]
    lines += [f"- Formula: {_formula(entry)}", f"- Range: [{low}, {high}]"]
    if entry.options:
        lines.append(f"- Options: {', '.join(map(_option, entry.options))}")
    return "\n".join([*lines, f"- Source: {entry.fields['Source']}", ""])


def _option(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return f"`{parameter.name}` (needed)"
    return f"`{parameter.name}` ({_shown(parameter.default)})"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value[0]:g} to {value[-1]:g}" if isinstance(value, tuple) else str(value)


def _wrapped(text: str) -> list[str]:
    return [line for block in text.split("\n\n") for line in (*textwrap.wrap(" ".join(block.split()), 120), "")][:-1]


def main() -> None:
    sys.stdout.write(page())


if __name__ == "__main__":
    main()
