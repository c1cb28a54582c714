"""Rows and checkpoints that something else cuts, removes or replaces under a run: it continues, says what is lost, and
keeps that as an alarm."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_runs import rl_recipe, write_world

from saccade import cli
from saccade.models.policy import Policy
from saccade.rollout.engine import Engine
from saccade.runs.alarms import read_alarms
from saccade.runs.records import LOST, Run
from saccade.runs.streams import STREAMS, tail
from saccade.training import checkpoint
from saccade.training.config import RLRecipe
from saccade.training.resuming import Resume
from saccade.training.rl import train
from tests.benchmark_files import mmstar
from tests.chat_server import Answer, chat_server

ROW = len('{"step": 1, "a": 0.5}\n')


def steps_in(path: Path) -> list[int]:
    """The steps of the rows that can be read, each once."""
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(json.loads(line).get("step"))
        except ValueError:
            continue
    return sorted({step for step in found if step is not None})


HARMS: dict[str, tuple[Callable[[Path], Any], str, list[float]]] = {
    "emptied": (lambda p: os.truncate(p, 0), "cut to 0 bytes, .* rows of steps 1 to 5 are lost", [6, 7]),
    "cut at a row": (lambda p: os.truncate(p, 3 * ROW), "rows of steps 4 to 5 are lost", [1, 2, 3, 6, 7]),
    "cut within a row": (lambda p: os.truncate(p, 3 * ROW + 9), "rows of steps 4 to 5 are lost", [1, 2, 3, 6, 7]),
    "removed": (lambda p: p.unlink(), "it was removed, .* rows of steps 1 to 5 are lost", [6, 7]),
    "replaced by a longer file": (lambda p: p.write_text("{}\n" * 99), "replaced or edited, .* rows up to", [6, 7]),
    "replaced by a folder": (lambda p: [p.unlink(), p.mkdir()], "no file, which is kept beside it", [6, 7]),
    "replaced by a pipe": (lambda p: [p.unlink(), os.mkfifo(p)], "no file, which is kept beside it", [6, 7]),
    "sent to nowhere": (lambda p: [p.unlink(), p.symlink_to(os.devnull)], "no file, which is kept beside it", [6, 7]),
    "given an endless step": (lambda p: p.write_text('{"step": 1e400}\n'), "rows up to step 5 are lost", [6, 7, inf]),
    "written to": (lambda p: p.open("a").write('{"x": 1'), "something else wrote 7 bytes", [1, 2, 3, 4, 5, 6, 7]),
}


def five_rows(folder: Path) -> tuple[Run, Path]:
    run = Run(folder)
    for step in range(1, 6):
        run.metrics(step, {"a": 0.5})
    assert run.sizes()["metrics.jsonl"] == 5 * ROW
    return run, folder / "metrics.jsonl"


@pytest.mark.parametrize("name", list(HARMS))
def test_what_something_else_does_to_a_stream_is_said_once_and_later_rows_are_whole(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (harm, words, left), (run, stream) = HARMS[name], five_rows(tmp_path)
    harm(stream)
    run.metrics(6, {"a": 0.5})
    run.metrics(7, {"a": 0.5})
    run.sizes()
    assert steps_in(stream) == left
    (alarm,) = read_alarms(tmp_path)
    assert (alarm.name, alarm.step) == (LOST, 5) and re.search(words, alarm.reason), alarm
    assert caplog.messages == [str(alarm)]


def test_a_pipe_in_place_of_a_stream_when_a_run_begins_is_an_error_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(OSError, match="No such device or address"):
        Run(tmp_path).metrics(1, {"a": 0.5})


def test_a_stream_with_the_same_rows_in_another_place_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, stream = five_rows(tmp_path)
    stream.rename(tmp_path / "elsewhere")  # to another disk
    stream.symlink_to("elsewhere")
    run.metrics(6, {"a": 0.5})
    shutil.copy(stream, tmp_path / "copy")  # and back
    (tmp_path / "copy").replace(stream)
    run.metrics(7, {"a": 0.5})
    assert steps_in(stream) == [1, 2, 3, 4, 5, 6, 7] and not caplog.messages


def test_a_hole_of_terabytes_in_a_stream_costs_no_time_and_no_space(tmp_path: Path) -> None:
    run, stream = five_rows(tmp_path)
    sizes = run.sizes() | {"metrics.jsonl": 3 * ROW}
    os.truncate(stream, 1 << 42)
    with stream.open("ab") as file:
        file.write(b"\n")
    assert b"".join(tail(stream, 3 * ROW)).split(b"\0")[0].count(b"\n") == 2
    assert run.cut_back(sizes, 3) == {"metrics.jsonl": 3}
    assert steps_in(stream) == [1, 2, 3]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def recipe_of(world: Path) -> RLRecipe:
    return rl_recipe(world, num_steps=5, eval={"every": 1}, checkpoint={"every": 2, "keep": 2})


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train(recipe_of(world), out, evaluate=falling)
    return out


def falling(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
    return {"score": -float(step)}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "last" / "model.safetensors")


def test_a_run_whose_rows_and_checkpoints_are_removed_continues_and_is_resumed(
    world: Path, whole: Path, tmp_path: Path
) -> None:
    out, recipe = tmp_path / "run", recipe_of(world)
    saved: dict[int, list[str]] = {}

    def evaluate(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
        saved[step] = [path.name for path in checkpoint.steps(out)]
        if step == 3:
            (out / "rollouts.jsonl").unlink()
            shutil.rmtree(out / "checkpoints")
        return {"score": [0.0, 1.0, 0.9, 0.8, 0.7, 0.6][step]}

    train(recipe, out, evaluate=evaluate)
    assert saved[3] == ["step-000001", "step-000002"]
    assert saved[4] == ["step-000003"], "saved at once, out of turn"
    reasons = [f"{alarm.step}: {alarm.reason}" for alarm in read_alarms(out)]
    assert reasons[1:] == [f"3: checkpoint step-00000{n} was removed by something else" for n in (1, 2)]
    assert "rollouts.jsonl: something else changed it: it was removed" in reasons[0]
    assert "rows of steps 1 to 3 are lost" in reasons[0]
    assert (out / "checkpoints" / "best").resolve().name == "step-000004", "the best of those that are there"
    assert steps_in(out / "rollouts.jsonl") == [4, 5] and steps_in(out / "groups.jsonl") == [1, 2, 3, 4, 5]
    shutil.rmtree(out / "checkpoints" / "step-000005")
    train(recipe, out, evaluate=evaluate, resume=True)
    assert all(torch.equal(one, weights(whole)[name]) for name, one in weights(out).items())


@pytest.mark.parametrize(
    ("harm", "where"),
    [
        ("emptied", None),
        ("cut within a row", "step-4"),
        pytest.param("removed", None, marks=pytest.mark.slow),
        pytest.param("replaced by a longer file", "4", marks=pytest.mark.slow),
    ],
)
def test_a_resume_without_its_rows_names_them_and_continues_from_whole_weights(
    world: Path, whole: Path, tmp_path: Path, harm: str, where: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    out = shutil.copytree(whole, tmp_path / "run", symlinks=True)
    shutil.rmtree(out / "checkpoints" / "step-000005")
    HARMS[harm][0](out / "metrics.jsonl")
    left = [step for step in steps_in(out / "metrics.jsonl") if step < 5] if harm != "removed" else []
    with caplog.at_level(logging.INFO):
        train(recipe_of(world), out, evaluate=falling, resume=Resume(where))
    assert f"resuming {out} after step 4 (checkpoint step-000004)" in caplog.text
    (alarm,) = read_alarms(out)
    assert (alarm.name, alarm.step) == (LOST, 4) and re.search("metrics.jsonl: .*rows .* (lost|changed)", alarm.reason)
    assert steps_in(out / "metrics.jsonl") == [*left, 5]
    assert [steps_in(out / name) for name in STREAMS[1:]] == [[1, 2, 3, 4, 5]] * 2
    assert all(torch.equal(one, weights(whole)[name]) for name, one in weights(out).items())


def test_answers_that_something_else_removes_during_an_evaluation_are_written_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data = tmp_path / "eval", mmstar(tmp_path)

    def answer(number: int, body: dict[str, Any]) -> Answer:
        if number == 4:
            (out / "items.jsonl").unlink()
        return Answer("A")

    with chat_server(answer) as server:
        words = ["eval", "mmstar", f"path={data}", f"model={server.url}", "server.name=m", "batch_size=1"]
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--out", str(out)])
    words, ids = "removed 4 of its rows; they are written again", (out / "items.jsonl").read_text().splitlines()
    assert not ended.value.code and words in capsys.readouterr().err
    assert len({json.loads(line)["sample_id"] for line in ids}) == len(ids) == len(server.requests) == 6
