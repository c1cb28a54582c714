"""What pydantic says of a recipe, as lines with file, line, key and way out."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from saccade.config.section import TAGS, Config, Key, Loc, dotted, place
from saccade.faults import Faults

MOST_LINES = 50
"""Different mistakes that an error lists."""
_ITEM = re.compile(r"\.\d+(?=[.':])")
_TAG_MISTAKES = ("union_tag_not_found", "union_tag_invalid", "model_attributes_type")


def said(error: ValidationError) -> str:
    """The mistakes of a section that no file has, such as one made of options: `deadline_s: got -1, expected ...`."""
    plain, lines = {"extra_forbidden": "unknown key", "missing": "is missing"}, []
    for one in error.errors():
        got = "" if one["type"] == "value_error" else f"got {one['input']!r}, expected "
        lines.append(": ".join(filter(None, (dotted(one["loc"]), plain.get(one["type"], f"{got}{_expected(one)}")))))
    return "\n".join(dict.fromkeys(lines))


def folded(found: Iterable[tuple[str, str]]) -> str:
    """A line per mistake; the same one in many items of a list (data.0.x, data.1.x) is one line."""
    faults = Faults(MOST_LINES, "places", lambda text: _ITEM.sub(".~", text))
    for where, text in found:
        faults.add(where, text)
    return "\n".join([*map(str, faults), *([f"and {faults.hidden:,} more"] if faults.hidden else [])])


def mistakes(
    error: ValidationError, data: Any, places: dict[Loc, str], schema: type[Config]
) -> Iterator[tuple[str, str]]:
    """(file:line, text) of each; the members of a union that all rejected the same value share one."""
    found: dict[Loc, list[ErrorDetails]] = {}
    for detail in error.errors():
        found.setdefault(_real(detail["loc"], data), []).append(detail)
    unknown = {loc for loc, details in found.items() if all(d["type"] == "extra_forbidden" for d in details)}
    for loc, details in sorted(found.items(), key=lambda pair: pair[0] not in unknown):
        where, name, mistake = place(loc, places), dotted(loc), details[0]["type"]
        if loc in unknown:
            models = [model for d in details for model in _models(schema, d["loc"][:-1])]
            yield where, f"unknown key '{name}'{_instead(loc, details[0]['input'], models)}"
        elif mistake == "missing":
            yield place(loc[:-1], places), f"'{name}' is missing"
        elif mistake == "too_short" and any(other != loc == other[: len(loc)] for other in found):
            continue  # pydantic counts the valid items; each invalid one has its own line
        elif mistake in _TAG_MISTAKES and (members := _members(list(_models(schema, details[0]["loc"])))):
            yield where, f"'{name}': got {details[0]['input']!r}, expected a section with {members}"
        elif mistake == "value_error":
            yield where, f"{name + ': ' if name else ''}{_expected(details[0])}"
        else:
            expected = " or ".join(dict.fromkeys(_expected(d) for d in details))
            yield where, f"'{name}': got {details[0]['input']!r}, expected {expected}"


def _instead(loc: Loc, value: Any, models: Sequence[type[BaseModel]]) -> str:
    """The way out for the unknown key at `loc`."""
    moved = {old: new for model in models if issubclass(model, Config) for old, new in model.moved.items()}
    if (new := moved.get(str(loc[-1]))) is None:
        return nearest(str(loc[-1]), [name for model in models for name in model.model_fields])
    return "; remove it" if value is None else f"; it is now '{dotted((*loc[:-1], new))}'"


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
            if i < len(loc) - 1 or not isinstance(data, dict) or key == "[key]":  # pydantic's mark of a key itself
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


def nearest(name: str, names: Sequence[str] | dict[str, Path]) -> str:
    close = get_close_matches(name, list(names), n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known keys: {', '.join(dict.fromkeys(names))}" if names and not isinstance(names, dict) else ""
