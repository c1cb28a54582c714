"""Reading what a run left behind. A file that is missing or torn becomes a warning on the page, never an invention."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]


@dataclass
class RunFiles:
    """One run directory, read. `warnings` tells in plain words what could not be read."""

    path: Path
    config: Row
    config_text: str
    environment: Row
    metrics: list[Row]
    results: Row
    warnings: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """rl, sft, pretrain, eval, or '' when the configuration does not say."""
        return str(self.config.get("kind", ""))

    def rollouts(self) -> Iterator[Row]:
        """Rows of rollouts.jsonl, streamed: the file of a long run is larger than memory should be."""
        return rows_of(self.path / "rollouts.jsonl", [])

    def groups(self) -> Iterator[Row]:
        """Rows of groups.jsonl: question, gold answer and images of each prompt."""
        return rows_of(self.path / "groups.jsonl", [])

    def items(self) -> Iterator[Row]:
        """Rows of items.jsonl; of a training run, those of its first and last held-out evaluation."""
        files = item_files(self.path)
        for file in dict.fromkeys([*files[:1], *files[-1:]]):
            yield from rows_of(file, [])

    def images(self, shas: str | list[str] | None) -> list[Path]:
        """The saved images of these hashes (one, or a list), in order; [] unless the run kept them all."""
        names = [shas] if isinstance(shas, str) else shas or []
        paths = [self.path / "images" / f"{sha}.png" for sha in names]
        return paths if all(path.is_file() for path in paths) else []


def read_run(path: Path, needs: tuple[str, ...] = ()) -> RunFiles:
    """Read a run directory; files named in `needs` are warned about when they are missing."""
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


def item_files(folder: Path) -> list[Path]:
    """The items.jsonl of an evaluation, or those of a training run's evaluations in the order of their steps."""
    if (folder / "items.jsonl").exists():
        return [folder / "items.jsonl"]
    return sorted(folder.glob("eval/step-*/items.jsonl"), key=lambda file: int(file.parent.name.removeprefix("step-")))


def read_json(path: Path, warnings: list[str]) -> Any:
    """The content of a JSON file; {} when it is not there, and a warning when it is not JSON."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        warnings.append(f"{path.parent.name}/{path.name} is not valid JSON ({error}); left out")
        return {}


def rows_of(path: Path, warnings: list[str]) -> Iterator[Row]:
    """Rows of a JSONL file that are whole objects; the number of others becomes one warning."""
    if not path.exists():
        return
    torn = 0
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                yield row
            else:
                torn += bool(line.strip())
    if torn:
        warnings.append(
            f"{path.parent.name}/{path.name}: {torn} lines are no JSON objects "
            "(a run that was killed cuts its last line); left out"
        )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _yaml(text: str, path: Path, warnings: list[str]) -> Row:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError:
        warnings.append(f"{path.parent.name}/{path.name} is not valid YAML; left out")
        return {}
    return data if isinstance(data, dict) else {}
