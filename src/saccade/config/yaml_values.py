"""YAML as people expect it, read and written: `1e-4` is a number, `010` is not 8 and `1:30` is not 90, a date is text,
and only true and false are booleans."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import Composer

MOST_NODES = 100_000
"""Keys and values of a file: these take 2 seconds and 80 MB."""
_BY_HAND = (":timestamp", ":bool", ":float", ":int")
_PATTERNS = {
    "int": (r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"(?:[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))",
        "-+0123456789.",
    ),
    "bool": (r"(?:true|True|TRUE|false|False|FALSE)", "tTfF"),
}
"""Type -> what is read as one, and its first characters."""


class Bounded(Composer):
    """Of a loader of YAML: reads no more than MOST_NODES."""

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.nodes += 1
        if self.nodes > MOST_NODES:
            mark = parent.start_mark if parent is not None else None
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_NODES:,} keys and values", problem_mark=mark)
        return super().compose_node(parent, index)


class Loader(Bounded, yaml.SafeLoader):
    """Reads recipes."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - a table of the base class
        first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith(_BY_HAND)]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class Dumper(yaml.SafeDumper):
    """Writes recipes: texts that this loader or any other would read as something else are in quotes."""


for _name, (_pattern, _firsts) in _PATTERNS.items():
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^{_pattern}$"), list(_firsts))
