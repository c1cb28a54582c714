"""Trackers beside a run's files: what they get, and that none of them can stop a run."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from saccade.runs import sinks, trackers
from saccade.runs.sinks import SinkConfig, open_sinks
from saccade.training.rl import train
from tests.training_runs import rl_recipe, write_world


class Recorder:
    """A tracker that remembers."""

    def __init__(self, directory: Path, config: SinkConfig, step: int) -> None:
        self.got: list[Any] = [("open", config.project, step)]
        directory.joinpath("recorder.json").unlink(missing_ok=True)
        self.path = directory / "recorder.json"

    def metrics(self, step: int, row: Any) -> None:
        self.got.append(("metrics", step, sorted(row)))

    def image(self, step: int, image: Image.Image, caption: str) -> None:
        self.got.append(("image", step, image.size, caption))

    def close(self) -> None:
        self.path.write_text(json.dumps(self.got))


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch):
    return lambda kind: monkeypatch.setattr(trackers, "opener", lambda name: kind)


def test_a_run_feeds_its_rows_and_an_image_with_boxes_to_a_tracker(tmp_path: Path, replaced: Any) -> None:
    replaced(Recorder)
    world = write_world(tmp_path / "world")
    train(rl_recipe(world, num_steps=2, sinks=[{"kind": "wandb", "project": "p"}]), tmp_path / "run")
    got = json.loads((tmp_path / "run" / "recorder.json").read_text())
    assert got[0] == ["open", "p", 0]
    rows = [one for one in got if one[0] == "metrics"]
    assert [step for _, step, _ in rows] == [1, 2]
    assert {"reward/total", "policy/loss", "tokens/per_s"} <= set(rows[0][2]) and "stage" not in rows[0][2]
    assert [one[1] for one in got if one[0] == "image"] == [1, 2]
    assert all("How many?" in one[3] and "reward" in one[3] for one in got if one[0] == "image")


class Broken(Recorder):
    def metrics(self, step: int, row: Any) -> None:
        raise ConnectionError("no route to the tracker")


class NeverOpens(Recorder):
    def __init__(self, *_: Any) -> None:
        raise RuntimeError("no key")


@pytest.mark.parametrize(("kind", "reason"), [(Broken, "no route to the tracker"), (NeverOpens, "no key")])
def test_a_dead_tracker_is_dropped_aloud_and_the_run_continues(
    kind: type, reason: str, tmp_path: Path, replaced: Any, caplog: pytest.LogCaptureFixture
) -> None:
    replaced(kind)
    with caplog.at_level(logging.WARNING), open_sinks([SinkConfig(kind="mlflow")], tmp_path) as found:
        for step in range(5):
            found.metrics(step, {"a": 1.0, "b": float("nan"), "stage": "x"})
    assert caplog.text.count(reason) == 1 and "sink mlflow is dropped, the run continues" in caplog.text


def test_a_tracker_that_hangs_delays_nothing_and_is_left_behind(
    tmp_path: Path, replaced: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = threading.Event()

    class Hangs(Recorder):
        def metrics(self, step: int, row: Any) -> None:
            free.wait(30)

    replaced(Hangs)
    monkeypatch.setattr(sinks, "WAITING", 3)
    monkeypatch.setattr(sinks, "LEAVE_S", 0.05)
    with caplog.at_level(logging.WARNING), open_sinks([SinkConfig(kind="trackio")], tmp_path) as found:
        for step in range(50):
            found.metrics(step, {"a": 1.0})
    free.set()
    assert "sink trackio is too slow" in caplog.text and "rows were dropped" in caplog.text


def test_a_missing_package_is_named_with_the_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(ValueError, match=r"'wandb' is not installed; say: pip install 'saccade\[wandb\]'"),
        open_sinks([SinkConfig(kind="wandb")], tmp_path),
    ):
        pass


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


def feed(kind: str, directory: Path, step: int = 0) -> None:
    with open_sinks([SinkConfig(kind=kind)], directory, step) as found:
        found.metrics(step + 1, {"reward/total": 0.5})
        found.images(step + 1, lambda: [(Image.new("RGB", (8, 8)), "caption")])
    assert not any(thread.failed for thread in found.threads)


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_wandb_and_trackio_get_rows_by_step_and_resume_the_same_run(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    run = SimpleNamespace(
        id="abc",
        log=lambda row, step: calls.append((step, list(row))),
        finish=lambda: calls.append("finish"),
    )

    def init(**options: Any) -> Any:
        calls.append(options)
        return run

    stand_in(monkeypatch, kind, init=init, Image=lambda image, caption: (image.size, caption))
    feed(kind, tmp_path)
    feed(kind, tmp_path, step=7)
    assert calls[1:4] == [(1, ["reward/total"]), (1, ["reply"]), "finish"]
    assert calls[0]["project"] == "saccade" and calls[0]["resume"] == "allow" and calls[5] == (8, ["reward/total"])
    if kind == "wandb":
        assert (calls[0]["id"], calls[4]["id"]) == (None, "abc")
        for damaged in ("{", "[5]", "null"):  # the run continues, as another one of the tracker
            (tmp_path / "sinks.json").write_text(damaged)
            feed(kind, tmp_path, step=9)
            assert next(one for one in calls[::-1] if isinstance(one, dict))["id"] is None


def test_tensorboard_writes_event_files_in_the_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    feed("tensorboard", tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("reward/total")] == [(1, 0.5)]
    assert events.Tags()["images"] == ["reply"]


def test_mlflow_keeps_one_run_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    feed("mlflow", tmp_path)
    feed("mlflow", tmp_path, step=3)
    from mlflow import MlflowClient

    (run,) = MlflowClient().search_runs([MlflowClient().get_experiment_by_name("saccade").experiment_id])
    steps = [one.step for one in MlflowClient().get_metric_history(run.info.run_id, "reward/total")]
    assert steps == [1, 4] and run.info.status == "FINISHED"
