"""Which schema a recipe follows, by its key `kind`. Schemas are imported when asked for: some floors are heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from saccade.cli.options import variables
from saccade.config import Config, ConfigError, kind, load


def _at(module: str, name: str) -> Callable[[], type[Config]]:
    return lambda: getattr(import_module(module), name)


SCHEMAS: dict[str, Callable[[], type[Config]]] = {
    "pretrain": _at("saccade.base.config", "PretrainRecipe"),
    "coldstart": _at("saccade.coldstart.recipe", "ColdStartRecipe"),
    "sft": _at("saccade.training.config", "SFTRecipe"),
    "rl": _at("saccade.training.config", "RLRecipe"),
    "eval": _at("saccade.evaluation.config", "EvalRecipe"),
    "demo": _at("saccade.studies.demo_recipe", "DemoRecipe"),
}


def load_recipe(path: str, overrides: Sequence[str] = ()) -> Config:
    """A recipe of whatever kind it says it is."""
    name = kind(path)
    if name not in SCHEMAS:
        raise ConfigError(f"{path}: kind is {name!r}, expected one of {', '.join(SCHEMAS)}")
    return load(path, SCHEMAS[name](), overrides, variables())
