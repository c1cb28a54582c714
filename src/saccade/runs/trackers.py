"""The trackers that `saccade.runs.sinks` knows: one small class each. Their packages are optional extras."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from saccade.disk import write_text
from saccade.runs.sinks import Open, Sink, SinkConfig

log = logging.getLogger(__name__)
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
IDS = "sinks.json"
"""File of a run that keeps the trackers' own names of it, so that a run that resumes continues there."""


def opener(kind: str) -> Open:
    """ValueError when the package is missing."""
    if importlib.util.find_spec(PACKAGES[kind]) is None:
        raise ValueError(
            f"sinks: the package of {kind!r} is not installed; say: pip install 'saccade[{kind}]', or remove the sink"
        )
    return {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio, "mlflow": MLflow}[kind]


def _ids(directory: Path) -> dict[str, Any]:
    """The names by kind; none when the file is damaged, which is said: the run continues under new ones."""
    path = directory / IDS
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (ValueError, TypeError, RecursionError) as error:
        log.warning("%s cannot be read (%s); trackers show the rest of this run as another one", path, error)
        return {}


def _known_id(directory: Path, kind: str) -> str | None:
    found = _ids(directory).get(kind)
    return found if isinstance(found, str) else None


def _keep_id(directory: Path, kind: str, name: str) -> None:
    write_text(directory / IDS, json.dumps(_ids(directory) | {kind: name}))


class TensorBoard(Sink):
    """Event files in RUN/tensorboard."""

    def __init__(self, directory: Path, config: SinkConfig, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1 if step else None)

    def metrics(self, step: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self.writer.add_scalar(name, value, step)

    def image(self, step: int, image: Image.Image, caption: str) -> None:
        import numpy as np

        self.writer.add_image("reply", np.asarray(image), step, dataformats="HWC")
        self.writer.add_text("reply", caption, step)

    def close(self) -> None:
        self.writer.close()


class LoggedRun(Sink):
    """A tracker whose `init` gives a run with `log` and `finish`: W&B and those with its interface."""

    api: Any
    run: Any

    def metrics(self, step: int, row: Mapping[str, float]) -> None:
        self.run.log(dict(row), step=step)

    def image(self, step: int, image: Image.Image, caption: str) -> None:
        self.run.log({"reply": self.api.Image(image, caption=caption)}, step=step)

    def close(self) -> None:
        self.run.finish()


class WandB(LoggedRun):
    """Weights & Biases; offline with WANDB_MODE=offline."""

    def __init__(self, directory: Path, config: SinkConfig, step: int) -> None:
        self.api = import_module("wandb")
        name = directory.absolute().name
        known = _known_id(directory, "wandb")
        self.run = self.api.init(project=config.project, name=name, dir=str(directory), id=known, resume="allow")
        _keep_id(directory, "wandb", str(self.run.id))


class Trackio(LoggedRun):
    """trackio, local by default."""

    def __init__(self, directory: Path, config: SinkConfig, step: int) -> None:
        self.api = import_module("trackio")
        self.run = self.api.init(project=config.project, name=directory.absolute().name, resume="allow")


class MLflow(Sink):
    """MLflow, by its client: the active run of the process is not touched."""

    def __init__(self, directory: Path, config: SinkConfig, step: int) -> None:
        self.client = import_module("mlflow").MlflowClient()
        known = _known_id(directory, "mlflow")
        if known is None:
            found = self.client.get_experiment_by_name(config.project)
            experiment = found.experiment_id if found else self.client.create_experiment(config.project)
            known = self.client.create_run(experiment, run_name=directory.absolute().name).info.run_id
            _keep_id(directory, "mlflow", known)
        self.run_id = known

    def metrics(self, step: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self.client.log_metric(self.run_id, name, value, step=step)

    def image(self, step: int, image: Image.Image, caption: str) -> None:
        self.client.log_image(self.run_id, image, f"replies/step-{step:06d}.png")
        self.client.log_text(self.run_id, caption, f"replies/step-{step:06d}.txt")

    def close(self) -> None:
        self.client.set_terminated(self.run_id)
