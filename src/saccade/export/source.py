"""What is exported: a checkpoint, the run that it belongs to, and the model that the run started from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saccade.models.config import ModelConfig
from saccade.models.lora import holds_adapters, recorded_base
from saccade.runs.files import RunFiles, read_object, read_run
from saccade.runs.records import CONFIG

LINKS = ("best", "last")
"""Checkpoints of a run, the preferred one first."""


@dataclass(frozen=True)
class ExportSource:
    """A checkpoint to export."""

    checkpoint: Path
    run: RunFiles | None
    """None for a directory that is not in a run."""
    step: int | None

    @property
    def base(self) -> str | None:
        """Path or hub name of the model that was trained, as recorded."""
        if self.has_adapters:
            return recorded_base(self.checkpoint)
        return None if self.run is None else str(self.run.config["model"]["path"])

    @property
    def has_adapters(self) -> bool:
        return holds_adapters(self.checkpoint)

    @property
    def model(self) -> ModelConfig:
        """How the run loaded its model."""
        if self.run is None:
            return ModelConfig(path=str(self.checkpoint), train=())
        return ModelConfig.model_validate(self.run.config["model"])


def find_source(path: Path) -> ExportSource:
    """The best checkpoint of a run (the last one if none was evaluated), or the given one. ValueError for another
    directory."""
    if (path / CONFIG).is_file():
        found = next((one for name in LINKS if (one := path / "checkpoints" / name).exists()), None)
        if found is None:
            raise ValueError(f"{path}: the run has no checkpoint yet; expected checkpoints/best or checkpoints/last")
        path = found
    elif not (path / "config.json").is_file() and not holds_adapters(path):
        raise ValueError(f"{path}: got neither a run ({CONFIG}) nor a checkpoint; expected one of them")
    checkpoint = path.resolve()
    folder = checkpoint.parent.parent
    of_run = checkpoint.parent.name == "checkpoints" and (folder / CONFIG).is_file()
    run = read_run(folder) if of_run else None
    if run is not None and run.kind not in ("rl", "sft"):
        run = None
    step = read_object(checkpoint / "state.json", []).get("step")
    return ExportSource(checkpoint, run, step if isinstance(step, int) else None)
