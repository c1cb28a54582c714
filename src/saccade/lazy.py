"""Packages whose names are imported when they are first used (PEP 562), so that a recipe, or a mistake in one, is
answered without loading what only a run needs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def first_use(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package: `places` is name -> the module in the package that has it, or module:attribute
    where it has another name there. Type checkers read the same names from imports under TYPE_CHECKING."""

    def get(name: str) -> Any:
        if name not in places:
            known = ", ".join(places)
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it exports {known}")
        module, _, attribute = places[name].partition(":")
        value = getattr(import_module(f"{package}.{module}"), attribute or name)
        setattr(sys.modules[package], name, value)
        return value

    return get
