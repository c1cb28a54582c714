"""Reads the files of a run. A missing or damaged file becomes a warning in the report."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

JsonRow = dict[str, Any]
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
        return rows_of(self.path / "rollouts.jsonl", [])

    def groups(self) -> Iterator[JsonRow]:
        """Rows of groups.jsonl: question, gold answer and images of each prompt."""
        return rows_of(self.path / "groups.jsonl", [])

    def items(self) -> Iterator[JsonRow]:
        """Rows of items.jsonl; of a training run, those of its first and last held-out evaluation."""
        files = item_files(self.path)
        for file in dict.fromkeys([*files[:1], *files[-1:]]):
            yield from rows_of(file, [])

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
    text = _text(path / "config.yaml")
    return RunFiles(
        path=path,
        config=_yaml(text, path / "config.yaml", warnings),
        config_text=text,
        environment=read_json(path / "environment.json", warnings),
        metrics=list(rows_of(path / "metrics.jsonl", warnings)),
        results=read_json(path / "results.json", warnings),
        warnings=warnings,
    )


def file_inside(folder: Path, name: Any) -> Path | None:
    """The file that a row of the folder names, if it is in that folder: rows may be written by others."""
    if not isinstance(name, str) or "\0" in name:
        return None
    path = (folder / name).resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def item_files(folder: Path) -> list[Path]:
    """The items.jsonl of an evaluation, or those of a training run's evaluations in the order of their steps."""
    if (folder / "items.jsonl").exists():
        return [folder / "items.jsonl"]
    return sorted(folder.glob("eval/step-*/items.jsonl"), key=lambda file: int(file.parent.name.removeprefix("step-")))


def read_json(path: Path, warnings: list[str]) -> Any:
    """The content of a JSON file; {} if it is missing, and a warning if it is not JSON."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        warnings.append(f"{path.parent.name}/{path.name} is not valid JSON ({error}); skipped")
        return {}


def rows_of(path: Path, warnings: list[str]) -> Iterator[JsonRow]:
    """Rows of a JSONL file that are JSON objects; the number of other lines becomes one warning."""
    if not path.exists():
        return
    damaged = 0
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
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


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _yaml(text: str, path: Path, warnings: list[str]) -> JsonRow:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError:
        warnings.append(f"{path.parent.name}/{path.name} is not valid YAML; skipped")
        return {}
    return data if isinstance(data, dict) else {}
