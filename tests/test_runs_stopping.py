"""Stopping by signals and by the clock: the run is saved, says how to continue, and ends as if it had never stopped."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from training_runs import rl_recipe, write_world

from saccade import cli
from saccade.config import dump
from saccade.models.policy import Policy, load_policy
from saccade.rollout.builtin import BuiltinEngine
from saccade.rollout.engine import Engine
from saccade.runs import stopping
from saccade.runs.stopping import RunStopped, Stop, interruptible
from saccade.training import sft
from saccade.training.config import RLRecipe, SFTRecipe
from saccade.training.master_weights import MasterAdamW
from saccade.training.resuming import Resume
from saccade.training.rl import train
from tests.benchmark_files import mmstar
from tests.chat_server import Answer, chat_server

CLOCKS = ("time/", "tokens/per_s", "memory/")
STREAMS = ("metrics.jsonl", "rollouts.jsonl", "groups.jsonl")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(recipe_of(world), out, evaluate=score)
    return out


def recipe_of(world: Path, **changes: Any) -> RLRecipe:
    return rl_recipe(world, num_steps=4, eval={"every": 2}, checkpoint={"every": 3, "keep": 9}, **changes)


def score(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
    torch.rand(3)
    return {"score": float(step)}


def rows(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(CLOCKS) and k != "run"} for row in lines]


def assert_same(run: Path, whole: Path) -> None:
    for name in STREAMS:
        assert rows(run / name) == rows(whole / name), name
    ours, theirs = (load_file(one / "checkpoints" / "last" / "model.safetensors") for one in (run, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class Signaling(BuiltinEngine):
    """Sends a signal in the given call of `generate`, and then takes its time."""

    def __init__(self, policy: Policy, call: int, number: int, wait_s: float = 0.0) -> None:
        super().__init__(policy)
        self.left, self.number, self.wait_s = call, number, wait_s

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        found = super().generate(*args, **kwargs)
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
            time.sleep(self.wait_s)
        return found


def stopped(run: Callable[[Stop], Any], grace_s: float = 20.0) -> RunStopped:
    with Stop(grace_s).listening() as stop, pytest.raises(RunStopped) as caught:
        run(stop)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and signal.getitimer(signal.ITIMER_REAL)[0] == 0
    return caught.value


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_lets_the_step_end_saves_it_and_the_resumed_run_is_the_whole_one(
    world: Path, whole: Path, tmp_path: Path, number: int
) -> None:
    out, recipe = tmp_path / "whole", recipe_of(world)
    engine = Signaling(load_policy(recipe.model), call=1, number=number)
    end = stopped(lambda stop: train(recipe, out, evaluate=score, engine=engine, stop=stop))
    assert (end.code, str(end)) == (128 + number, f"stopped after step 1; continue with: saccade resume {out}")
    assert (out / "checkpoints" / "last").resolve().name == "step-000001"
    train(recipe, out, evaluate=score, resume=True)
    assert_same(out, whole)


def test_a_step_that_takes_longer_than_the_grace_is_abandoned_without_a_trace(
    world: Path, whole: Path, tmp_path: Path
) -> None:
    out, recipe = tmp_path / "whole", recipe_of(world)
    engine, began = Signaling(load_policy(recipe.model), 2, signal.SIGTERM, wait_s=60.0), time.monotonic()
    end = stopped(lambda stop: train(recipe, out, evaluate=score, engine=engine, stop=stop), grace_s=0.05)
    assert "stopped after step 1;" in str(end) and time.monotonic() - began < 30
    assert [row["step"] for row in rows(out / "metrics.jsonl")] == [0, 1]
    train(recipe, out, evaluate=score, resume=True)
    assert_same(out, whole)


def test_a_step_whose_weights_move_is_finished(
    world: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, recipe, real, calls = tmp_path / "whole", recipe_of(world), MasterAdamW.step, [0]

    def slow(self: MasterAdamW, closure: Any = None) -> Any:
        calls[0] += 1
        real(self, closure)
        if calls[0] == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)  # longer than the grace

    monkeypatch.setattr(MasterAdamW, "step", slow)
    end = stopped(lambda stop: train(recipe, out, evaluate=score, stop=stop), grace_s=0.01)
    assert "stopped after step 1;" in str(end)
    train(recipe, out, evaluate=score, resume=True)
    assert_same(out, whole)


@pytest.mark.parametrize("at", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_an_evaluation_is_left_for_the_next_start(world: Path, whole: Path, tmp_path: Path, at: int) -> None:
    out, recipe = tmp_path / "whole", recipe_of(world)

    def slow(policy: Policy, engine: Engine, step: int) -> dict[str, float]:
        if step == at:
            torch.rand(5)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return score(policy, engine, step)

    end = stopped(lambda stop: train(recipe, out, evaluate=slow, stop=stop), grace_s=0.05)
    assert f"stopped after step {at};" in str(end)
    train(recipe, out, evaluate=score, resume=True)
    assert_same(out, whole)


def test_before_the_first_step_there_is_nothing_to_save_and_the_line_says_so(world: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "run", recipe_of(world)
    engine = Signaling(load_policy(recipe.model), 1, signal.SIGINT, wait_s=60.0)
    end = stopped(lambda stop: train(recipe, out, evaluate=score, engine=engine, stop=stop), grace_s=0.05)
    assert str(end).endswith(f"nothing was saved; continue with: saccade resume {out} --from start")
    with pytest.raises(ValueError, match=r"has no checkpoint but rows \(1 in metrics"):
        train(recipe, out, evaluate=score, resume=True)
    train(recipe, out, evaluate=score, resume=Resume("start"))
    assert [row["step"] for row in rows(out / "metrics.jsonl")] == [0, 1, 2, 3, 4]


class Left(BaseException):
    """The process would have ended, with this status."""


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(status: int) -> None:
        raise Left(status)

    monkeypatch.setattr(os, "_exit", leave)


@pytest.mark.usefixtures("leaving")
def test_the_second_signal_ends_the_process_at_once() -> None:
    with Stop().listening() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(Left, match="143"):
            os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Left, match="130"), interruptible("run it again"):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except RunStopped as end:
            assert (end.code, str(end)) == (143, "run it again")
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_in_pieces_of_max_hours_is_the_whole_run(world: Path, whole: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "whole", recipe_of(world, max_hours=1e-9)
    result = train(recipe, out, evaluate=score)
    words = f"stopped after step 1 (max_hours 1e-09); continue with: saccade resume {out}"
    assert (result.step, result.stopped) == (1, words)
    for step in (2, 3, 4):
        result = train(recipe, out, evaluate=score, resume=True)
        assert result.step == step
    assert result.stopped is None
    assert_same(out, whole)


def sft_recipe(world: Path, **changes: Any) -> SFTRecipe:
    rows = [{"image": f"{i}.png", "task": "count", "question": f"How many? {i}", "response": str(i)} for i in range(6)]
    (world / "replies.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    base = {
        "model": {"path": str(world / "model"), "device": "cpu"},
        "data": [{"path": str(world / "replies.jsonl")}],
        "prompts_per_step": 2,
        "num_steps": 4,
        "checkpoint": {"every": 9},
        "optim": {"lr": 1e-3},
    }
    return SFTRecipe.model_validate(base | changes)


def test_sft_stops_by_signals_and_by_the_clock_too(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sft.train(sft_recipe(world), tmp_path / "whole")
    out, real = tmp_path / "cut", sft.sft_step

    def signaling(*arguments: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(sft, "sft_step", signaling)
    end = stopped(lambda stop: sft.train(sft_recipe(world), out, stop=stop))
    assert (end.code, str(end)) == (143, f"stopped after step 1; continue with: saccade resume {out}")
    monkeypatch.setattr(sft, "sft_step", real)
    sft.train(sft_recipe(world), out, resume=True)
    assert rows(out / "metrics.jsonl") == rows(tmp_path / "whole" / "metrics.jsonl")
    assert sft.train(sft_recipe(world, max_hours=1e-9), tmp_path / "short").step == 1


@pytest.mark.usefixtures("leaving")
def test_the_command_prints_the_line_and_ends_with_the_status_of_the_signal(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, real = tmp_path / "run", MasterAdamW.step

    def signaling(self: MasterAdamW, closure: Any = None) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return real(self, closure)

    monkeypatch.setattr(MasterAdamW, "step", signaling)
    (tmp_path / "rl.yaml").write_text(dump(recipe_of(world)))
    with pytest.raises(Left, match="130"):
        cli.main(["rl", str(tmp_path / "rl.yaml"), "--out", str(out)])
    assert f"saccade: stopped after step 1; continue with: saccade resume {out}\n" in capsys.readouterr().err


UNHEARD = """
import os, signal, sys, time
from saccade.runs.stopping import Stop
answers = os.dup(1)
if sys.argv[2] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
reader, writer = os.pipe()
for descriptor in (1, 2):
    os.dup2(writer, descriptor)
os.close(writer)
os.close(reader)
with Stop().listening() as stop:
    for _ in range(int(sys.argv[3])):
        os.kill(os.getpid(), int(sys.argv[1]))
    os.write(answers, str(stop.signal).encode())
"""


@pytest.mark.parametrize(
    ("number", "how", "times", "heard"),
    [
        *((number, "", 1, str(int(number))) for number in stopping.ASKING),
        *((number, "", 3, str(int(number))) for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)),
        (signal.SIGHUP, "nohup", 1, "None"),
    ],
)
def test_a_signal_is_heard_when_what_the_messages_were_piped_to_is_gone(number, how, times, heard) -> None:
    """`saccade rl ... 2>&1 | tee log` and Ctrl-C, which ends tee too; a closed terminal, which hangs up twice."""
    command = [sys.executable, "-c", UNHEARD, str(int(number)), how, str(times)]
    found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=False)
    assert (found.stdout.decode(), found.returncode) == (heard, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("twice", [False, True])
def test_a_process_stops_in_time_with_its_status(world: Path, tmp_path: Path, number: int, twice: bool) -> None:
    own = "import time\n\ndef slow(completion, sample):\n    time.sleep(0.5)\n    return 0.5\n"
    (tmp_path / "own.py").write_text(own)
    parts = [{"name": f"{tmp_path / 'own.py'}:slow"}]
    recipe = yaml.safe_load(dump(recipe_of(world, rubrics={"test": {"parts": parts, "truncated": "as_is"}})))
    (tmp_path / "rl.yaml").write_text(yaml.safe_dump(recipe | {"num_steps": 400}))
    command = [sys.executable, "-m", "saccade", "rl", str(tmp_path / "rl.yaml"), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 1) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(number)
    if twice:
        time.sleep(0.5)
        process.send_signal(number)
    began = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert time.monotonic() - began < (5 if twice else 60)
    assert twice or "continue with: saccade resume" in err


@pytest.mark.usefixtures("leaving")
def test_an_evaluation_that_is_stopped_keeps_its_answers_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(number: int, body: dict[str, Any]) -> Answer:
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        return Answer("A")

    out, data = tmp_path / "eval", mmstar(tmp_path)
    with chat_server(answer) as server:
        words = ["eval", "mmstar", f"path={data}", f"model={server.url}", "server.name=m", "batch_size=1"]
        with pytest.raises(Left, match="143"):
            cli.main([*words, "--out", str(out)])
        kept = f"saccade: stopped; the answers so far are kept in {out}; continue with the same command\n"
        assert kept in capsys.readouterr().err
        assert len((out / "items.jsonl").read_text().splitlines()) == 2
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--out", str(out)])
        assert not ended.value.code and len(server.requests) == 7, "one question is asked again"


EARLY = """
import os, sys, types
cli = types.ModuleType("saccade.cli")
cli.main = lambda: os.kill(os.getpid(), int(sys.argv[1]))
sys.modules["saccade.cli"] = cli
from saccade.__main__ import main
main()
print("the verb began")
"""


@pytest.mark.parametrize("number", stopping.ASKING)
def test_a_signal_before_the_verb_began_is_one_line_and_its_status(number: int) -> None:
    command = [sys.executable, "-c", EARLY, str(int(number))]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    line = "saccade: stopped before it began; run the same command again\n"
    assert (found.returncode, found.stdout, found.stderr) == (128 + number, "", line)


@pytest.mark.usefixtures("leaving")
@pytest.mark.parametrize("number", stopping.ASKING)
@pytest.mark.parametrize("swallowed", [False, True])
def test_every_verb_stops_with_one_line_even_where_the_stop_is_swallowed(
    number: int, swallowed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = []

    def verb() -> None:
        try:
            try:
                os.kill(os.getpid(), number)
            except BaseException:
                if not swallowed:
                    raise
            time.sleep(20)
        finally:
            time.sleep(0.2)  # longer than the request to stop is repeated
            closed.append(True)

    monkeypatch.setattr(stopping, "AGAIN_S", 0.05)
    monkeypatch.setitem(cli.VERBS, "tiny", (verb, "Waits.", "saccade tiny"))
    with pytest.raises(Left, match=str(128 + number)):
        cli.main(["tiny"])
    assert capsys.readouterr().err == "saccade: stopped; run the same command again\n" and closed
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("how", ["interruptible", "listening"])
def test_a_module_that_is_being_loaded_is_loaded_to_its_end(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is raised inside NumPy's import is swallowed there, and torch's then fails for another reason."""
    monkeypatch.setattr(stopping, "AGAIN_S", 0.02)
    name = f"loaded_slowly_{how}"
    lines = ["import os, signal, time", "os.kill(os.getpid(), signal.SIGINT)", "time.sleep(0.1)", "done = True"]
    (tmp_path / f"{name}.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    stop = interruptible("run it again") if how == "interruptible" else Stop(0.02).listening()
    with pytest.raises(RunStopped, match="again"), stop:
        importlib.import_module(name)
        time.sleep(20)
    assert sys.modules.pop(name).done


def test_a_stop_that_came_while_a_module_was_loaded_is_not_lost_to_other_handlers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loaded_first.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    monkeypatch.syspath_prepend(tmp_path)
    began = []
    with pytest.raises(RunStopped, match="run it again") as end, interruptible("run it again"):
        importlib.import_module("loaded_first")
        with Stop().listening():
            began.append(True)
    assert end.value.code == 130 and not began
    with Stop().listening():
        began.append(True)
    assert began, "it was raised once"


def test_ctrl_c_ends_a_view_without_a_word() -> None:
    with interruptible("run it again"), pytest.raises(KeyboardInterrupt), stopping.until_interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
