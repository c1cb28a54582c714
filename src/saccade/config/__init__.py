"""Recipes: YAML plus dotted overrides into a frozen pydantic model, with errors that name file, line, key and way out.

A recipe may build on another one with `extends: other.yaml` (beside it) or `extends: name` (a packaged recipe):
mappings are merged, lists and scalars replaced. Overrides such as `loss.kl_coef=0.01` or `stages.0.group_size=4` come
last; their values are read as YAML. A section that names another `kind` than the one it extends replaces it.
"""

from __future__ import annotations

from saccade.config.loading import checked, dump, kind, load
from saccade.config.mistakes import MOST_LINES, said
from saccade.config.odd_values import numbers
from saccade.config.reading import find, merged, packaged
from saccade.config.section import Config, ConfigError, FolderName

__all__ = [
    "MOST_LINES",
    "Config",
    "ConfigError",
    "FolderName",
    "checked",
    "dump",
    "find",
    "kind",
    "load",
    "merged",
    "numbers",
    "packaged",
    "said",
]
