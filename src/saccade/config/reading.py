"""Files of recipes, read: YAML with the line of every key, and what a recipe extends merged in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from saccade.config.mistakes import nearest
from saccade.config.section import TAGS, ConfigError, Loc, dotted
from saccade.config.yaml_values import Loader

LARGEST, DEEPEST, MOST_KEYS = 4 << 20, 40, 50_000
"""Limits of a recipe: bytes, levels, and keys and items with aliases written out."""


def packaged() -> dict[str, Path]:
    """Recipes that ship with the package, by name without suffix; `presets/...` are to be extended, not complete
    recipes."""
    folder = Path(str(resources.files("saccade"))) / "recipes"
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))}


def find(path: str | Path, beside: Path | None = None) -> Path:
    """A file at `path` (from folder `beside`, when given), else the packaged recipe of that name."""
    for candidate in ([beside / path] if beside else []) + [Path(path)]:
        if os.path.isfile(candidate):  # False for what can be no name
            return candidate
    recipes, name = packaged(), str(path).removesuffix(".yaml")
    if name in recipes:
        return recipes[name]
    known = ", ".join(recipes) or "(none)"
    raise FileNotFoundError(f"{path}: no such recipe; expected a YAML file or one of {known}{nearest(name, recipes)}")


def read(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], dict[Loc, str]]:
    """The data of a recipe with what it extends merged in, and the `file:line` of every key."""
    if path.resolve() in seen:
        raise ConfigError(f"{path}: extends itself by way of {', '.join(p.name for p in seen)}")
    places: dict[Loc, str] = {(): str(path)}
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise ConfigError(f"{path}: expected a recipe, a regular file of at most {LARGEST >> 20} MB")
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=Loader)
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply; a recipe has at most {DEEPEST} levels") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not valid YAML: {', '.join(map(str.strip, str(error).splitlines()))}") from None
    data = {} if node is None else build(node, (), str(path), places)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: got a {type(data).__name__}, expected a mapping of keys to values")
    parent = data.pop("extends", None)
    if parent is None:
        return data, places
    try:
        base_path = find(str(parent), beside=path.parent)
    except FileNotFoundError as error:
        raise ConfigError(f"{places[('extends',)]}: extends {error}") from None
    base, base_places = read(base_path, (*seen, path.resolve()))
    return merged(base, data), {**base_places, **places}


def build(node: yaml.Node, loc: Loc, file: str, places: dict[Loc, str]) -> Any:
    """Plain data of a YAML node; notes the line of every key and item in `places`."""
    return _Building(file, places).data(node, loc)


@dataclass
class _Building:
    file: str
    places: dict[Loc, str]
    letters: int = 0

    def data(self, node: yaml.Node, loc: Loc) -> Any:
        self._refuse_large(node, loc)
        if isinstance(node, yaml.SequenceNode):
            for i, child in enumerate(node.value):
                self.places[(*loc, i)] = self._at(child)
            return [self.data(child, (*loc, i)) for i, child in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            try:
                return Loader("").construct_object(node)
            except (ValueError, LookupError, AttributeError, ArithmeticError, yaml.YAMLError):  # many digits, a tag
                raise ConfigError(f"{self._at(node)}: got a value that is no plain one") from None
        built: dict[Any, Any] = {}
        for key_node, child in node.value:
            key, line = key_node.value, self._at(key_node)
            if not isinstance(key, str) or key == "<<":
                raise ConfigError(f"{line}: got a key that is not a plain name, expected 'key: value' (see 'extends')")
            if key in built:
                first = self.places[(*loc, key)]
                raise ConfigError(f"{line}: key '{dotted((*loc, key))}' is given twice; first on {first}")
            self.places[(*loc, key)] = line
            built[key] = self.data(child, (*loc, key))
        return built

    def _refuse_large(self, node: yaml.Node, loc: Loc) -> None:
        """ConfigError beyond the limits: aliases repeat what they name, and may name themselves."""
        self.letters += len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        for found, most, what in (
            (len(loc), DEEPEST, "levels"),
            (len(self.places), MOST_KEYS, "keys and items"),
            (self.letters, LARGEST, "letters"),
        ):
            if found > most:
                more = f"more than {most:,} {what}, aliases (*name) written out"
                raise ConfigError(f"{self._at(node)}: got {more}; expected a recipe")

    def _at(self, node: yaml.Node) -> str:
        return f"{self.file}:{node.start_mark.line + 1}"


def merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`top` over `base`, section by section."""
    both = {key: merged(base[key], value) for key, value in top.items() if _same_section(base.get(key), value)}
    return base | top | both


def _same_section(base: Any, top: Any) -> bool:
    """False for another member of a union too: it replaces the existing one, whose keys it does not have."""
    if not (isinstance(base, dict) and isinstance(top, dict)):
        return False
    return all(base[tag] == top[tag] for tag in TAGS if tag in base and tag in top)
