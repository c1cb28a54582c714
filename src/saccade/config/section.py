"""The base of every section of a recipe, and the names of its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict

Key = str | int
Loc = tuple[Key, ...]
"""The keys from the top of a recipe to a value, such as `("stages", 0, "group_size")`."""
TAGS = ("kind", "teacher")
"""Keys that name the member of a union."""


class ConfigError(ValueError):
    """An invalid recipe or override; the message has one line per error."""


def _names_a_folder(name: str) -> str:
    fits = len(name.encode(errors="replace")) <= 100 and name.isprintable()
    if name in ("", ".", "..") or not fits or "/" in name or "\\" in name:
        raise ValueError(f"got {name!r}, expected the name of a folder: up to 100 letters, and no slash in it")
    return name


FolderName = Annotated[str, AfterValidator(_names_a_folder)]
"""A name that becomes that of a folder inside a run."""


class Config(BaseModel):
    """The base of every section of a recipe: frozen, and an unknown key is an error."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    moved: ClassVar[dict[str, str]] = {}
    """Keys of earlier versions -> where they are now, dotted from this section; an error gives the new spelling."""


def place(loc: Loc, places: Mapping[Loc, str]) -> str:
    """Where a key is, or the nearest section around it that the recipe names."""
    return next(places[loc[:n]] for n in range(len(loc), -1, -1) if loc[:n] in places)


def dotted(loc: Loc) -> str:
    return ".".join(map(str, loc))
