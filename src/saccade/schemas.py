"""Recipes of any kind: which schema a recipe follows is given by its key `kind`. A schema is imported when needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from saccade.config import Config, ConfigError, kind, load


def _at(module: str, name: str) -> Callable[[], type[Config]]:
    return lambda: getattr(import_module(module), name)


SCHEMAS: dict[str, Callable[[], type[Config]]] = {
    "pretrain": _at("saccade.base.config", "PretrainRecipe"),
    "coldstart": _at("saccade.coldstart.recipe", "ColdStartRecipe"),
    "sft": _at("saccade.training.config", "SFTRecipe"),
    "rl": _at("saccade.training.config", "RLRecipe"),
    "eval": _at("saccade.evaluation.config", "EvalRecipe"),
    "study": _at("saccade.studies.study_recipe", "StudyRecipe"),
    "demo": _at("saccade.studies.demo_recipe", "DemoRecipe"),
}


def load_recipe(path: str | Path, overrides: Sequence[str] = (), variables: Mapping[str, str] | None = None) -> Config:
    """The recipe at `path` (or the packaged one of that name) as the class that its `kind` names.

        recipe = load_recipe("shapes.yaml", ["num_steps=20", "optim.lr=1e-5"])

    `overrides` are dotted keys with YAML values; `${NAME}` in a text becomes `variables["NAME"]`. Raises ConfigError
    with file, line and key; FileNotFoundError when there is no such recipe.
    """
    name = kind(path)
    if name not in SCHEMAS:
        raise ConfigError(f"{path}: kind is {name!r}, expected one of {', '.join(SCHEMAS)}")
    return load(path, SCHEMAS[name](), overrides, variables)
