"""Reads the files of a run. A missing or damaged file becomes a warning in the report."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from saccade.config.reading import build
from saccade.config.yaml_values import Loader
from saccade.disk import skip_hole
from saccade.runs.shapes import GROUP, ITEM, ROLLOUT, JsonRow, Shape, fitted, fitted_metrics
from saccade.runs.streams import LONGEST_LINE

ITEMS, BLIND_ITEMS, UNJUDGED = "items.jsonl", "blind.jsonl", "unjudged.jsonl"
"""Files of an evaluation: its items, those of the blind control of an evaluation during training, and those whose judge
did not answer, which are judged again before any other question is asked."""
LARGEST_CONFIG = 4 << 20
"""Bytes of a recipe."""
LARGEST_JSON = 256 << 20
"""Bytes of any other document."""
_SHA = re.compile(r"[0-9a-f]{8,64}")


@dataclass
class RunFiles:
    """The content of a run directory. `warnings` lists what could not be read."""

    path: Path
    config: JsonRow
    config_text: str
    environment: JsonRow
    metrics: list[JsonRow]
    results: JsonRow
    warnings: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """rl, sft, pretrain, eval, or '' when the configuration has none."""
        return str(self.config.get("kind", ""))

    def rollouts(self) -> Iterator[JsonRow]:
        """Rows of rollouts.jsonl, streamed because the file of a long run may exceed memory."""
        return self._shaped(self.path / "rollouts.jsonl", ROLLOUT)

    def groups(self) -> Iterator[JsonRow]:
        """Rows of groups.jsonl: question, gold answer and images of each prompt."""
        return self._shaped(self.path / "groups.jsonl", GROUP)

    def items(self) -> Iterator[JsonRow]:
        """Rows of items.jsonl; of a training run, those of its first and last held-out evaluation."""
        files = item_files(self.path)
        for file in dict.fromkeys([*files[:1], *files[-1:]]):
            yield from self._shaped(file, ITEM)

    def evaluations(self, name: str = ITEMS) -> list[tuple[int, list[JsonRow]]]:
        """(step, items) of every held-out evaluation of a training run, in order; `name` is a file of each."""
        folders = [path.parent for path in item_files(self.path) if path.parent != self.path]
        return [(_step_of(path), list(self._shaped(path, ITEM))) for path in (f / name for f in folders)]

    def _shaped(self, path: Path, shape: Shape) -> Iterator[JsonRow]:
        """The rows that have their keys, values of other types left out; the number of others becomes a warning."""
        odd, found = 0, list[str]()
        for row in rows_of(path, found):
            if (whole := fitted(row, shape)) is None:
                odd += 1
            else:
                yield whole
        if odd:
            found.append(
                f"{path.parent.name}/{path.name}: {odd} rows lack a key or have a value of another type; skipped"
            )
        self.warnings.extend(text for text in found if text not in self.warnings)

    def images(self, shas: str | list[str] | None) -> list[Path]:
        """The saved images of these hashes (one, or a list), in order; [] unless the run kept them all."""
        names = [shas] if isinstance(shas, str) else shas or []
        paths = [self.path / "images" / f"{sha}.png" for sha in names if _SHA.fullmatch(str(sha))]
        return paths if len(paths) == len(names) and all(path.is_file() for path in paths) else []


def read_run(path: Path, needs: tuple[str, ...] = ()) -> RunFiles:
    """Read a run directory, with a warning for each missing file of `needs`.

    rewards = [row["reward/total"] for row in read_run(Path("runs/shapes")).metrics]
    """
    warnings = [f"{path.name}/{name} is missing" for name in needs if not (path / name).exists()]
    config, text = read_config(path, warnings)
    return RunFiles(
        path=path,
        config=config,
        config_text=text,
        environment=read_object(path / "environment.json", warnings),
        metrics=list(fitted_metrics(rows_of(path / "metrics.jsonl", warnings))),
        results=read_object(path / "results.json", warnings),
        warnings=warnings,
    )


def read_config(folder: Path, warnings: list[str]) -> tuple[JsonRow, str]:
    """The recipe that a run keeps, as plain data and as text; {} if it is missing, and a warning if it is not YAML."""
    path = folder / "config.yaml"
    if not _is_own(path, warnings):
        return {}, ""
    if path.stat().st_size > LARGEST_CONFIG:
        warnings.append(f"{folder.name}/{path.name} has more than {LARGEST_CONFIG >> 20} MB; skipped")
        return {}, ""
    text = path.read_text(encoding="utf-8", errors="replace")
    return _yaml(text, path, warnings), text


def file_inside(folder: Path, name: Any) -> Path | None:
    """The file that a row of the folder names, if it is in that folder: rows may be written by others."""
    if not isinstance(name, str) or "\0" in name:
        return None
    try:
        path = (folder / name).resolve()
    except (OSError, RuntimeError):  # a loop of links
        return None
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def item_files(folder: Path) -> list[Path]:
    """The items.jsonl of an evaluation, or those of a training run's evaluations in the order of their steps."""
    if (folder / ITEMS).is_file():
        return [folder / ITEMS]
    return sorted(folder.glob(f"eval/step-*/{ITEMS}"), key=_step_of)


def _step_of(file: Path) -> int:
    number = file.parent.name.removeprefix("step-")
    return int(number) if number.isdecimal() else -1


def read_json(path: Path, warnings: list[str]) -> Any:
    """The content of a JSON file; {} if it is missing, and a warning if it is not JSON."""
    if not _is_own(path, warnings):
        return {}
    if path.stat().st_size > LARGEST_JSON:
        warnings.append(f"{path.parent.name}/{path.name} has more than {LARGEST_JSON >> 20} MB; skipped")
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        warnings.append(f"{path.parent.name}/{path.name} is not valid JSON ({error}); skipped")
        return {}


def read_object(path: Path, warnings: list[str]) -> JsonRow:
    """As `read_json`; {} for JSON that is no object."""
    found = read_json(path, warnings)
    return found if isinstance(found, dict) else {}


def rows_of(path: Path, warnings: list[str]) -> Iterator[JsonRow]:
    """Rows of a JSONL file that are JSON objects; the number of other lines becomes one warning."""
    if not path.is_file():
        return
    damaged = 0
    with path.open("rb") as file:
        for line in iter(partial(file.readline, LONGEST_LINE), b""):
            if not line.endswith(b"\n"):
                skip_hole(file)
            try:
                row = json.loads(line.decode(errors="replace"))
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield row
            else:
                damaged += bool(line.strip())
    if damaged:
        warnings.append(
            f"{path.parent.name}/{path.name}: {damaged} lines are not JSON objects "
            "(a killed run truncates its last line); skipped"
        )


def _is_own(path: Path, warnings: list[str]) -> bool:
    """Whether there is a regular file, and no link out of its folder: in a run of others it could name any file. A pipe
    would never end."""
    if not path.is_file() and not path.is_symlink():
        return False
    if file_inside(path.parent, path.name) is None:
        warnings.append(f"{path.parent.name}/{path.name} is a link to something else than a file beside it; skipped")
        return False
    return True


def _yaml(text: str, path: Path, warnings: list[str]) -> JsonRow:
    try:
        node = yaml.compose(text, Loader)
        data = None if node is None else build(node, (), str(path), {})
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError):
        warnings.append(f"{path.parent.name}/{path.name} is not valid YAML; skipped")
        return {}
    return data if isinstance(data, dict) else {}
