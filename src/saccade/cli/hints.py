"""A hint for `--lr 1e-5`: keys of a recipe are given without dashes, as `optim.lr=1e-5`."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel
from typer.core import TyperCommand

from saccade.cli.options import STDOUT
from saccade.config import Config, kind, numbers
from saccade.schemas import SCHEMAS

RENAMED = {
    "eval": {
        "data": ["path"],
        "images": ["image_folder"],
        "decoding": ["decoding.greedy"],
        "judge": ["judge.url"],
        "judge_model": ["judge.name"],
        "served_name": ["server.name"],
    }
}
"""Verb -> options of earlier versions whose keys have other names."""


OUTPUT = ("--out", "--json", "--print-config", "--dry-run", "--help")
"""Options about what is written or shown; help lists them last."""


class Verb(TyperCommand):
    """A verb that answers an unknown option with the recipe's spelling of it, and whose help groups its options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], "vLLM": [], "Output and help": []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                groups[_group_of(parameter)].append(record)
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As its base, with `--json` alone as `--json=-`. ValueError for an unknown option that names a key of the
        recipe, and for a number that no option takes."""
        if any("--json" in p.opts and not getattr(p, "is_flag", True) for p in self.params):
            after = [*args[1:], "--"]
            args = [
                f"--json={STDOUT}" if a == "--json" and b.startswith("-") else a
                for a, b in zip(args, after, strict=True)
            ]
        if any(parameter.name == "overrides" for parameter in self.params):
            refuse_keys_as_options(self._known(), args, self.name or "")
        left = super().parse_args(ctx, args)
        for name, value in ctx.params.items():
            for _, text in numbers(value):
                raise ValueError(f"--{name.replace('_', '-')}: {text}")
        return left

    def _known(self) -> set[str]:
        return {"--help"}.union(*(set(p.opts) | set(p.secondary_opts) for p in self.params))


def _group_of(parameter: Any) -> str:
    """The heading under which help lists it."""
    if parameter.param_type_name == "argument":
        return "Arguments"
    if any(name.startswith("--vllm") for name in parameter.opts):
        return "vLLM"
    return "Output and help" if any(name in OUTPUT for name in parameter.opts) else "Options"


def refuse_keys_as_options(known: set[str], args: Sequence[str], verb: str) -> None:
    """ValueError for the first word of `args` that is no option in `known` but names a key of the recipe."""
    for word in args:
        option, equals, value = word.partition("=")
        if not option.startswith("--") or option in known:
            continue
        if option == "--":
            return
        name = option[2:].replace("-", "_")
        found = RENAMED.get(verb, {}).get(name) or spellings(_schema(verb, args), name)
        if found:
            given = value if equals else "VALUE"
            raise ValueError(
                f"{verb}: got option {option}, expected a key of the recipe without dashes: "
                f"{' or '.join(f'{key}={given}' for key in found)}"
            )


def _schema(verb: str, args: Sequence[str]) -> type[Config] | None:
    """The schema of the verb's recipes, or of the recipe that is the first word without a dash."""
    if verb in SCHEMAS:
        return SCHEMAS[verb]()
    try:
        return SCHEMAS[kind(next(word for word in args if not word.startswith("-")))]()
    except (StopIteration, KeyError, ValueError, OSError):
        return None


def spellings(schema: type[BaseModel] | None, name: str) -> list[str]:
    """At most three dotted keys of `schema` that end in `name` or replaced it, the shortest first; else those of the
    nearest name."""
    keys = sorted(set(_keys(schema, ())) if schema else (), key=lambda pair: (pair[1].count("."), pair[1]))
    close = get_close_matches(name, {last for last, _ in keys}, n=1, cutoff=0.8)
    return _named(keys, name) or [key for like in close for key in _named(keys, like)]


def _named(keys: Sequence[tuple[str, str]], name: str) -> list[str]:
    return [key for last, key in keys if name in (last, key) or key.endswith(f".{name}")][:3]


def _keys(schema: type[BaseModel], inside: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(last part, dotted key) of every key; a key of earlier versions comes with the one that replaced it."""
    for name, field in schema.model_fields.items():
        yield name, ".".join((*inside, name))
        for model, item in _sections(field.annotation, ()):
            yield from _keys(model, (*inside, name, *item))
    if issubclass(schema, Config):
        yield from ((old, ".".join((*inside, new))) for old, new in schema.moved.items())


def _sections(annotation: Any, item: tuple[str, ...]) -> Iterator[tuple[type[BaseModel], tuple[str, ...]]]:
    """The models that a value may be, each with '0' where it is the first of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, item
        return
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        for member in members:
            yield from _sections(member, item)
    elif origin in (tuple, list):
        yield from _sections(members[0], (*item, "0"))
