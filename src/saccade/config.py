"""Recipes: YAML plus dotted overrides into a frozen pydantic model, with errors that name file, line, key and way out.

A recipe may build on another one with `extends: other.yaml` (beside it) or `extends: name` (a packaged recipe):
mappings are merged, lists and scalars replaced. Overrides such as `loss.kl_coef=0.01` or `stages.0.group_size=4` come
last; their values are read as YAML. A section that names another `kind` than the one it extends replaces it.
"""

from __future__ import annotations

import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from saccade.faults import Faults
from saccade.odd_values import numbers, swapped
from saccade.yaml_values import Dumper, Loader

Key = str | int
Loc = tuple[Key, ...]
COMMAND_LINE = "command line"
TAGS = ("kind", "teacher")
"""Keys that name the member of a union."""


class ConfigError(ValueError):
    """An invalid recipe or override; the message has one line per error."""


class Config(BaseModel):
    """The base of every section of a recipe: frozen, and an unknown key is an error."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    moved: ClassVar[dict[str, str]] = {}
    """Keys of earlier versions -> where they are now, dotted from this section; an error gives the new spelling."""


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
        data, places = _read(find(path), seen=())
    for override in overrides:
        _override(data, places, override)
    data = _filled(data, (), places, variables or {})
    own = typing.get_args(schema.model_fields["kind"].annotation) if "kind" in schema.model_fields else ()
    if own and data.get("kind", own[0]) not in own:  # its other keys follow another schema
        raise ConfigError(f"{_place(('kind',), places)}: 'kind': got {data['kind']!r}, expected {own[0]!r}")
    config = checked(schema, data, places)
    _refuse(swapped(data, config), places)
    return config


def checked(schema: type[T], data: dict[str, Any], places: Mapping[Loc, str]) -> T:
    """`data` as a recipe. `places` says where keys are, at least `()`, the whole. ConfigError with a line per error."""
    _refuse(numbers(data), places)
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_folded(_mistakes(error, data, dict(places), schema))) from None


def _refuse(mistakes: Iterable[tuple[Loc, str]], places: Mapping[Loc, str]) -> None:
    """ConfigError with a line for each, if there are any."""
    if lines := [(_place(loc, places), f"'{_dotted(loc)}': {text}") for loc, text in mistakes]:
        raise ConfigError(_folded(lines))


def dump(config: Config) -> str:
    """The resolved configuration as YAML; `load` restores it unchanged."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, width=120)


def kind(path: str | Path) -> str:
    """The value of the top-level key `kind`, which names the schema of a recipe."""
    data, places = _read(find(path), seen=())
    if not isinstance(data.get("kind"), str):
        raise ConfigError(f"{places[()]}: got no 'kind', expected one such as 'kind: rl'")
    return data["kind"]


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
    raise FileNotFoundError(f"{path}: no such recipe; expected a YAML file or one of {known}{_nearest(name, recipes)}")


# ------------------------------------------------------------------------------------------------------ reading YAML


_ITEM_NUMBER = re.compile(r"[0-9]{1,9}")
LARGEST, DEEPEST, MOST_KEYS = 4 << 20, 40, 50_000
"""Limits of a recipe: bytes, levels, and keys and items with aliases written out."""


def _read(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], dict[Loc, str]]:
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
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    data = {} if node is None else _build(node, (), str(path), places)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: got a {type(data).__name__}, expected a mapping of keys to values")
    parent = data.pop("extends", None)
    if parent is None:
        return data, places
    try:
        base_path = find(str(parent), beside=path.parent)
    except FileNotFoundError as error:
        raise ConfigError(f"{places[('extends',)]}: extends {error}") from None
    base, base_places = _read(base_path, (*seen, path.resolve()))
    return merged(base, data), {**base_places, **places}


def _build(node: yaml.Node, loc: Loc, file: str, places: dict[Loc, str]) -> Any:
    """Plain data of a YAML node; notes the line of every key and item in `places`."""
    if len(loc) > DEEPEST or len(places) > MOST_KEYS:  # aliases repeat what they name, and may name themselves
        what = f"{DEEPEST} levels" if len(loc) > DEEPEST else f"{MOST_KEYS:,} keys and items"
        at = node.start_mark.line + 1
        raise ConfigError(f"{file}:{at}: got more than {what}, aliases (*name) written out; expected a recipe")
    if isinstance(node, yaml.SequenceNode):
        for i, child in enumerate(node.value):
            places[(*loc, i)] = f"{file}:{child.start_mark.line + 1}"
        return [_build(child, (*loc, i), file, places) for i, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        try:
            return Loader("").construct_object(node)
        except (ValueError, yaml.YAMLError):  # an integer of thousands of digits, a tag of Python
            raise ConfigError(f"{file}:{node.start_mark.line + 1}: got a value that is no plain one") from None
    built: dict[Any, Any] = {}
    for key_node, child in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key, str) or key == "<<":
            raise ConfigError(
                f"{file}:{line}: got a key that is not a plain name, expected 'key: value' (see 'extends')"
            )
        if key in built:
            first = places[(*loc, key)]
            raise ConfigError(f"{file}:{line}: key '{_dotted((*loc, key))}' is given twice; first on {first}")
        places[(*loc, key)] = f"{file}:{line}"
        built[key] = _build(child, (*loc, key), file, places)
    return built


def merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`top` over `base`, section by section."""
    both = {key: merged(base[key], value) for key, value in top.items() if _same_section(base.get(key), value)}
    return base | top | both


def _same_section(base: Any, top: Any) -> bool:
    """False for another member of a union too: it replaces the existing one, whose keys it does not have."""
    if not (isinstance(base, dict) and isinstance(top, dict)):
        return False
    return all(base[tag] == top[tag] for tag in TAGS if tag in base and tag in top)


def _override(data: dict[str, Any], places: dict[Loc, str], text: str) -> None:
    """Sets one `a.b.0.c=value` in `data`; a wrong key is found later, by the schema."""
    dotted, equals, value = text.partition("=")
    if not equals or not dotted or dotted.count(".") > DEEPEST:
        raise ConfigError(f"{COMMAND_LINE}: got '{text[:200]}', expected key=value such as loss.kl_coef=0.01")
    loc: Loc = tuple(int(part) if _ITEM_NUMBER.fullmatch(part) else part for part in dotted.split("."))
    node: Any = data
    for i, key in enumerate(loc):
        if problem := _no_way(node, key, _dotted(loc[:i])):
            raise ConfigError(f"{COMMAND_LINE}: '{dotted}': {problem}")
        places[loc[: i + 1]] = COMMAND_LINE
        if i < len(loc) - 1:
            node = _child(node, key)
    try:
        node[loc[-1]] = (tree := yaml.compose(value, Loader=Loader)) and _build(tree, loc, COMMAND_LINE, {})
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"{COMMAND_LINE}: '{dotted}': got {value[:200]!r}, expected a YAML value") from None
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
            raise ConfigError(f"{_place(loc, places)}: '{_dotted(loc)}': ${{{name}}} is not set; variables: {known}")
        value = value.replace(f"${{{name}}}", variables[name])
    return value


# ------------------------------------------------------------------------------------------------------------ errors

MOST_LINES = 50
"""Different mistakes that an error lists."""
_ITEM = re.compile(r"\.\d+(?=[.':])")


def said(error: ValidationError) -> str:
    """The mistakes of a section that no file has, such as one made of options: `deadline_s: got -1, expected ...`."""
    plain, lines = {"extra_forbidden": "unknown key", "missing": "is missing"}, []
    for one in error.errors():
        got = "" if one["type"] == "value_error" else f"got {one['input']!r}, expected "
        lines.append(": ".join(filter(None, (_dotted(one["loc"]), plain.get(one["type"], f"{got}{_expected(one)}")))))
    return "\n".join(dict.fromkeys(lines))


def _folded(mistakes: Iterable[tuple[str, str]]) -> str:
    """A line per mistake; the same one in many items of a list (data.0.x, data.1.x) is one line."""
    faults = Faults(MOST_LINES, "places", lambda text: _ITEM.sub(".~", text))
    for place, text in mistakes:
        faults.add(place, text)
    return "\n".join([*map(str, faults), *([f"and {faults.hidden:,} more"] if faults.hidden else [])])


def _mistakes(
    error: ValidationError, data: Any, places: dict[Loc, str], schema: type[Config]
) -> Iterator[tuple[str, str]]:
    """(place, text) of each; the members of a union that all rejected the same value share one."""
    found: dict[Loc, list[ErrorDetails]] = {}
    for detail in error.errors():
        found.setdefault(_real(detail["loc"], data), []).append(detail)
    unknown = {loc for loc, details in found.items() if all(d["type"] == "extra_forbidden" for d in details)}
    for loc, details in sorted(found.items(), key=lambda pair: pair[0] not in unknown):
        place, name, mistake = _place(loc, places), _dotted(loc), details[0]["type"]
        if loc in unknown:
            models = [model for d in details for model in _models(schema, d["loc"][:-1])]
            yield place, f"unknown key '{name}'{_instead(loc, details[0]['input'], models)}"
        elif mistake == "missing":
            yield _place(loc[:-1], places), f"'{name}' is missing"
        elif mistake == "too_short" and any(other != loc == other[: len(loc)] for other in found):
            continue  # pydantic counts the valid items; each invalid one has its own line
        elif mistake in _TAG_MISTAKES and (members := _members(list(_models(schema, details[0]["loc"])))):
            yield place, f"'{name}': got {details[0]['input']!r}, expected a section with {members}"
        elif mistake == "value_error":
            yield place, f"{name + ': ' if name else ''}{_expected(details[0])}"
        else:
            expected = " or ".join(dict.fromkeys(_expected(d) for d in details))
            yield place, f"'{name}': got {details[0]['input']!r}, expected {expected}"


def _instead(loc: Loc, value: Any, models: Sequence[type[BaseModel]]) -> str:
    """The way out for the unknown key at `loc`."""
    moved = {old: new for model in models if issubclass(model, Config) for old, new in model.moved.items()}
    if (new := moved.get(str(loc[-1]))) is None:
        return _nearest(str(loc[-1]), [name for model in models for name in model.model_fields])
    return "; remove it" if value is None else f"; it is now '{_dotted((*loc[:-1], new))}'"


_TAG_MISTAKES = ("union_tag_not_found", "union_tag_invalid", "model_attributes_type")


def _members(models: Sequence[type[BaseModel]]) -> str:
    """`kind: a, kind: b or kind: c` for the members of a union; empty where no tag distinguishes them."""
    found = [f"{tag}: {value}" for model in models for tag in TAGS for value in _literals(model, tag)]
    return " or ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def _literals(model: type[BaseModel], key: str) -> tuple[Any, ...]:
    field = model.model_fields.get(key)
    return typing.get_args(field.annotation) if field else ()


def _expected(detail: ErrorDetails) -> str:
    """`Input should be a valid integer, unable to ...` -> `a valid integer`, `Tuple should have at least 1 item ...` ->
    `at least 1 item`; containers are named as in YAML."""
    section, items = "a section of keys", "a list"
    kinds = {"tuple_type": items, "list_type": items, "model_type": section, "dict_type": section}
    text = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ").split(", unable")[0]
    text = re.sub("^[A-Z][a-z]+ should have | after validation, not.*", "", text)
    return kinds.get(detail["type"], text)


def _real(loc: Loc, root: Any) -> Loc:
    """`loc` without the names of union members that pydantic mixes in; a missing key stays as the last part."""
    real: list[Key] = []
    data: Any = root
    for i, key in enumerate(loc):
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            if i < len(loc) - 1 or not isinstance(data, dict):
                continue
        real.append(key)
    return tuple(real)


def _models(annotation: Any, loc: Loc) -> Iterator[type[BaseModel]]:
    """The models that a value at `loc` may be, found by walking the annotations."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not loc:
            yield annotation
        elif loc[0] in annotation.model_fields:
            yield from _models(annotation.model_fields[str(loc[0])].annotation, loc[1:])
        elif loc[0] == annotation.__name__ or any(
            loc[0] in _literals(annotation, key) for key in annotation.model_fields
        ):
            yield from _models(annotation, loc[1:])  # that was the name or the tag of a union member
        return
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        for member in members:
            yield from _models(member, loc)
    elif members and loc and (isinstance(loc[0], int) or origin is dict):
        yield from _models(members[-1] if origin is dict else members[0], loc[1:])


def _nearest(name: str, names: Sequence[str] | dict[str, Path]) -> str:
    close = get_close_matches(name, list(names), n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known keys: {', '.join(dict.fromkeys(names))}" if names and not isinstance(names, dict) else ""


def _place(loc: Loc, places: Mapping[Loc, str]) -> str:
    """Where a key is, or the nearest section around it that the recipe names."""
    return next(places[loc[:n]] for n in range(len(loc), -1, -1) if loc[:n] in places)


def _dotted(loc: Loc) -> str:
    return ".".join(map(str, loc))
