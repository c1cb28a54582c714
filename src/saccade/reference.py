"""Reference of recipes, made from their schemas: every key with its meaning, and JSON schemas for editors.

python -m saccade.reference keys > docs/keys.md
python -m saccade.reference schema rl > docs/schemas/rl.json
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from saccade.schemas import SCHEMAS

KINDS = ("rl", "sft", "eval", "coldstart", "study", "demo", "pretrain")


def keys_page() -> str:
    """docs/keys.md: a table for every kind of recipe, then one for every section."""
    lines = [
        "# Keys of recipes",
        "",
        "Made from the schemas by `python -m saccade.reference keys`; a test keeps it current. A section's type is a",
        "link to its keys. JSON schemas for editors are in [schemas/](schemas): in VS Code, put",
        "`# yaml-language-server: $schema=docs/schemas/rl.json` at the top of a recipe.",
        "",
    ]
    sections: dict[str, type[BaseModel]] = {}
    for kind in KINDS:
        schema = SCHEMAS[kind]()
        lines += [f"## kind: {kind}", "", *_described(schema), *_table(schema), ""]
        for one in _sections(schema):
            sections.setdefault(one.__name__, one)
    lines += ["# Sections", ""]
    for name in sorted(sections):
        lines += [f"## {name}", "", *_described(sections[name]), *_table(sections[name]), ""]
    return "\n".join(lines).rstrip() + "\n"


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON schema of a kind of recipe, with the meaning of every key; `extends` and placeholders are allowed."""
    schema = SCHEMAS[kind]()
    made = schema.model_json_schema()
    meanings = {one.__name__: attribute_docs(one) for one in [schema, *_sections(schema)]}
    for name, part in [(schema.__name__, made), *made.get("$defs", {}).items()]:
        for key, value in part.get("properties", {}).items():
            if meaning := meanings.get(name, {}).get(key):
                value["description"] = meaning
    made["properties"]["extends"] = {"type": "string", "description": "A recipe or preset that this one builds on."}
    made.pop("required", None)  # what `extends` names may hold it
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def attribute_docs(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the text below it in the source, of the class and of its bases."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= _docs_of(base)
    return found


@lru_cache(maxsize=256)
def _docs_of(model: type[BaseModel]) -> Mapping[str, str]:
    module = ast.parse(Path(inspect.getfile(model)).read_text(encoding="utf-8"))
    body = next((n.body for n in ast.walk(module) if isinstance(n, ast.ClassDef) and n.name == model.__name__), [])
    found: dict[str, str] = {}
    for node, after in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
            value = after.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found[node.target.id] = " ".join(value.value.split())
    return found


def _described(model: type[BaseModel]) -> list[str]:
    text = inspect.getdoc(model) or ""
    return [" ".join(text.split("\n\n")[0].split()), ""] if text else []


def _table(model: type[BaseModel]) -> list[str]:
    docs, rows = attribute_docs(model), []
    for key, field in model.model_fields.items():
        kind = f"{_type(field.annotation)}{_range(field)}"
        meaning = docs.get(key) or " ".join(_first_sentence(one) for one in _models_in(field.annotation))
        rows.append(f"| `{key}` | {kind} | {_default(field)} | {_cell(meaning)} |")
    return ["| key | type | default | meaning |", "|---|---|---|---|", *rows]


def _first_sentence(model: type[BaseModel]) -> str:
    return " ".join((inspect.getdoc(model) or "").split("\n\n")[0].split()).partition(". ")[0]


def _range(field: FieldInfo) -> str:
    """Bounds of a number, as ', >= 1'."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "at least"}
    bounds = [(signs[name], getattr(one, name)) for one in field.metadata for name in signs if hasattr(one, name)]
    return "".join(f", {sign} {value}" for sign, value in bounds if value is not None)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        changed = value.model_dump(exclude_defaults=True, mode="json")
        return _code(changed) if changed else "its defaults"
    return _code(value)


def _code(value: Any) -> str:
    if isinstance(value, Path):
        value = str(value)
    return f"`{_cell(json.dumps(value, default=str, ensure_ascii=False))}`"


def _type(annotation: Any) -> str:
    """A type as a reader of YAML knows it."""
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(members[0])
    if origin is typing.Literal:
        return " \\| ".join(f"`{one}`" for one in members)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(one) for one in members))
    if origin in (tuple, list):
        return f"list of {_type(members[0])}"
    if origin is dict:
        return f"{_type(members[0])} -> {_type(members[1])}"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " \\| ".join(f"`{one.value}`" for one in annotation)
    return names.get(annotation, _cell(str(getattr(annotation, "__name__", annotation))))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _sections(model: type[BaseModel], seen: frozenset[str] = frozenset()) -> Iterator[type[BaseModel]]:
    """Every model below a model, each once per path."""
    for field in model.model_fields.values():
        for one in _models_in(field.annotation):
            if one.__name__ not in seen:
                yield one
                yield from _sections(one, seen | {one.__name__})


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for one in typing.get_args(annotation):
        yield from _models_in(one)


def main(arguments: Sequence[str]) -> str:
    """What to print. ValueError for other words than `keys` and `schema KIND`."""
    if list(arguments) == ["keys"]:
        return keys_page()
    if len(arguments) == 2 and arguments[0] == "schema" and arguments[1] in KINDS:
        return json.dumps(json_schema(arguments[1]), indent=1, ensure_ascii=False) + "\n"
    raise ValueError(f"got {' '.join(arguments)!r}, expected: keys, or schema with one of {', '.join(KINDS)}")


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1:]))
