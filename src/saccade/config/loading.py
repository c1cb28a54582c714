"""Recipes with overrides, checked against a schema."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from saccade.config.mistakes import folded, mistakes
from saccade.config.odd_values import numbers, swapped
from saccade.config.reading import DEEPEST, build, find, read
from saccade.config.section import Config, ConfigError, Key, Loc, dotted, place
from saccade.config.yaml_values import Dumper, Loader

COMMAND_LINE = "command line"
_ITEM_NUMBER = re.compile(r"[0-9]{1,9}")
T = TypeVar("T", bound=Config)


def load(
    path: str | Path | None, schema: type[T], overrides: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> T:
    """Reads the recipe at `path` (or the packaged recipe of that name), applies `overrides`, checks against `schema`.

    Without a path only the overrides apply. `${NAME}` in a text becomes `variables["NAME"]`. Raises ConfigError;
    FileNotFoundError when there is no such recipe.
    """
    places: dict[Loc, str] = {(): COMMAND_LINE}
    data: dict[str, Any] = {}
    if path is not None:
        data, places = read(find(path), seen=())
    for override in overrides:
        _override(data, places, override)
    data = _filled(data, (), places, variables or {})
    own = typing.get_args(schema.model_fields["kind"].annotation) if "kind" in schema.model_fields else ()
    if own and data.get("kind", own[0]) not in own:  # its other keys follow another schema
        raise ConfigError(f"{place(('kind',), places)}: 'kind': got {data['kind']!r}, expected {own[0]!r}")
    config = checked(schema, data, places)
    _refuse(swapped(data, config), places)
    return config


def checked(schema: type[T], data: dict[str, Any], places: Mapping[Loc, str]) -> T:
    """`data` as a recipe. `places` says where keys are, at least `()`, the whole. ConfigError with a line per error."""
    _refuse(numbers(data), places)
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise ConfigError(folded(mistakes(error, data, dict(places), schema))) from None


def _refuse(found: Iterable[tuple[Loc, str]], places: Mapping[Loc, str]) -> None:
    """ConfigError with a line for each, if there are any."""
    if lines := [(place(loc, places), f"'{dotted(loc)}': {text}") for loc, text in found]:
        raise ConfigError(folded(lines))


def dump(config: Config) -> str:
    """The resolved configuration as YAML; `load` restores it unchanged."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, width=120)


def kind(path: str | Path) -> str:
    """The value of the top-level key `kind`, which names the schema of a recipe."""
    data, places = read(find(path), seen=())
    if not isinstance(data.get("kind"), str):
        raise ConfigError(f"{places[()]}: got no 'kind', expected one such as 'kind: rl'")
    return data["kind"]


def _override(data: dict[str, Any], places: dict[Loc, str], text: str) -> None:
    """Sets one `a.b.0.c=value` in `data`; a wrong key is found later, by the schema."""
    keys, equals, value = text.partition("=")
    if not equals or not keys or keys.count(".") > DEEPEST:
        raise ConfigError(f"{COMMAND_LINE}: got '{text[:200]}', expected key=value such as loss.kl_coef=0.01")
    loc: Loc = tuple(int(part) if _ITEM_NUMBER.fullmatch(part) else part for part in keys.split("."))
    node: Any = data
    for i, key in enumerate(loc):
        if problem := _no_way(node, key, dotted(loc[:i])):
            raise ConfigError(f"{COMMAND_LINE}: '{keys}': {problem}")
        places[loc[: i + 1]] = COMMAND_LINE
        if i < len(loc) - 1:
            node = _child(node, key)
    try:
        node[loc[-1]] = (tree := yaml.compose(value, Loader=Loader)) and build(tree, loc, COMMAND_LINE, {})
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError):
        raise ConfigError(f"{COMMAND_LINE}: '{keys}': got {value[:200]!r}, expected a YAML value") from None
    for inside in [at for at in places if at[: len(loc)] == loc and at != loc]:
        del places[inside]  # of what it replaces


def _no_way(node: Any, key: Key, name: str) -> str | None:
    """Why `key` cannot be set or entered in `node`, which the recipe calls `name`."""
    if isinstance(node, list):
        fits = isinstance(key, int) and key < len(node)
        return None if fits else f"got item {key}, expected 0 to {len(node) - 1} of '{name}'"
    if isinstance(node, dict):
        return None if isinstance(key, str) else f"the recipe holds no list '{name}' to take item {key} of"
    return f"'{name}' is not a section, got {node!r}"


def _child(node: Any, key: Key) -> Any:
    """The value at `key`; a section that the recipe omits starts empty."""
    if isinstance(node, dict) and node.get(key) is None:
        node[key] = {}
    return node[key]


def _filled(value: Any, loc: Loc, places: dict[Loc, str], variables: Mapping[str, str]) -> Any:
    """The data with `${NAME}` replaced in its texts."""
    if isinstance(value, dict):
        return {key: _filled(each, (*loc, key), places, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, (*loc, i), places, variables) for i, each in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name in re.findall(r"\$\{(\w+)\}", value):
        if name not in variables:
            known = ", ".join(variables) or "none"
            raise ConfigError(f"{place(loc, places)}: '{dotted(loc)}': ${{{name}}} is not set; variables: {known}")
        value = value.replace(f"${{{name}}}", variables[name])
    return value
