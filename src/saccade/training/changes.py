"""What changed since a checkpoint: recipe, data, base model, own code, package versions."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from saccade.config.differences import MISSING, differences, short
from saccade.runs.environment import hash_files

HARMLESS = (
    *("checkpoint", "eval", "heldout", "features", "max_hours", "images_per_step", "shared_prefix", "alarms"),
    *("tokens_per_micro_batch", "update.tokens_per_micro_batch", "update.shared_prefix", "update.sampler_gap_limit"),
    *("model.device", "model.gradient_checkpointing", "model.fused_layers", "rollout.engine"),
    *("rollout.max_failed_share", "sinks", "image_workers", "keep_tokens", "shard"),
)
"""Keys of a recipe that change no more than round-off of what is trained."""
PLACES = ("path", "hub", "image_folder")
"""Keys that say where data or model are; their content is compared by hash."""
_OF_MACHINE = ("device", "processes", "python")


@dataclass(frozen=True)
class Changes:
    """Lines for the user: what trains something else, and what does not."""

    training: tuple[str, ...]
    other: tuple[str, ...]


def facts(recipe: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint keeps for the comparison: the recipe as data, and parts of environment.json."""
    kept = {"recipe": recipe, "code_hash": dict(_own_code(recipe))}
    names = ("packages", "data_hash", "images", "model_hash", *_OF_MACHINE)
    return kept | {key: environment.get(key) for key in names}


def _own_code(recipe: Any) -> Iterator[tuple[str, str]]:
    """File and hash of what the recipe names as `path/to/file.py:function`, and of what it imports from beside it."""
    if isinstance(recipe, str):
        file = Path(recipe.rpartition(":")[0]).expanduser()
        if file.suffix == ".py" and file.is_file():
            yield from ((str(one), hash_files([one])) for one in _with_imports(file))
    elif isinstance(recipe, Mapping | list):
        for value in recipe.values() if isinstance(recipe, Mapping) else recipe:
            yield from _own_code(value)


def _with_imports(file: Path) -> list[Path]:
    """A file and, as far as their texts tell, the files in its folder and below that are imported with it."""
    found = [file]
    for one in found:  # which grows
        for name in _imports(one):
            stems = [folder / name.replace(".", "/") for folder in (file.parent, one.parent)]
            paths = [path for stem in stems for path in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py")]
            found += [path for path in dict.fromkeys(paths) if path not in found and os.path.isfile(path)]
    return found


def _imports(file: Path) -> Iterator[str]:
    """Dotted names that a file may import; none of one that is no Python, of which the run says what is wrong."""
    with suppress(OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names = ["", *(f".{alias.name}" for alias in node.names)]
                yield from filter(None, (f"{node.module or ''}{name}".strip(".") for name in names))


def completed(before: Mapping[str, Any], schema: type[BaseModel]) -> Mapping[str, Any]:
    """The facts with the defaults of options that are newer than the checkpoint: these changed nothing."""
    try:
        recipe = schema.model_validate(before["recipe"]).model_dump(mode="json")
    except ValidationError:
        return before  # of a schema that this version no longer reads
    return {**before, "recipe": recipe}


def compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """The changes between two `facts`. ValueError for one that could not apply: adapters stay as they began."""
    training, other = [], []
    for key, was, new in differences(before["recipe"], now["recipe"]):
        line = f"{key}: {short(was)} -> {short(new)}"
        if key.startswith("model.lora"):
            raise ValueError(f"{line}: adapters stay as they began; undo this in the run's config.yaml, or train anew")
        (other if _is_harmless(key) or _is_place(key, before, now) else training).append(line)
    hashes = [list((one["data_hash"] or {}).items()) for one in (before, now)]
    for i in range(max(map(len, hashes))):
        (name, was), (_, new) = (one[i] if i < len(one) else (MISSING, MISSING) for one in hashes)
        if was != new:
            name = name if name != MISSING else hashes[1][i][0]
            training.append(f"data '{name}': its content changed (SHA-256 {short(was)} -> {short(new)})")
    if before.get("images") is not None:  # of a checkpoint that has them
        training += _changed_images(before["images"], now["images"] or {})
    if before["model_hash"] and now["model_hash"] and before["model_hash"] != now["model_hash"]:
        training.append(f"base model: it changed (SHA-256 {short(before['model_hash'])} -> {short(now['model_hash'])})")
    was_code, code = before.get("code_hash", {}), now.get("code_hash", {})
    other += [f"{name}: the file was edited" for name, was in was_code.items() if code.get(name, was) != was]
    versions = [one["packages"] or {} for one in (before, now)]
    for name in dict.fromkeys([*versions[0], *versions[1]]):
        was, new = (one.get(name) for one in versions)
        if was != new:
            other.append(f"package {name}: {was} -> {new}")
    pairs = {key: (before.get(key), now.get(key)) for key in _OF_MACHINE}
    other += [f"{key}: {was} -> {new}" for key, (was, new) in pairs.items() if was is not None and was != new]
    return Changes(tuple(training), tuple(other))


def _changed_images(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A line for each source whose image files are others."""
    for was, (name, new) in zip(before.values(), now.items(), strict=False):
        if was["hash"] != new["hash"]:
            counts = (
                f"{new['count']:,} of them" if was["count"] == new["count"] else f"{was['count']} -> {new['count']}"
            )
            last = f", the last one written is {new['newest']}" if new["newest"] else ""
            yield f"data '{name}': its images changed ({counts}{last})"


def _is_harmless(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in HARMLESS)


def _is_place(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the key says only where something is, whose hash is known."""
    first, last = key.partition(".")[0], key.rpartition(".")[2]
    known = "model_hash" if first == "model" else "data_hash"
    return first in ("model", "data") and last in PLACES and bool(before[known]) and bool(now[known])
