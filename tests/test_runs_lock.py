"""One writer per directory: the second process gets one line, a dead one blocks nobody, readers need no lock."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from rich.console import Console
from training_runs import base_recipe, rl_recipe, write_world

from saccade import cli
from saccade.base import pretrain
from saccade.coldstart import run as cold_start
from saccade.coldstart.recipe import ColdStartRecipe
from saccade.config import dump, load
from saccade.evaluation.answerers import Answers, EvalQuestion, Failed
from saccade.evaluation.benchmarking import evaluate
from saccade.evaluation.config import Decoding, EvalRecipe
from saccade.runs import lock as lock_module
from saccade.runs.lock import LOCK, InUse, is_held, keep_lock, locked, refuse_in_use
from saccade.runs.records import Run
from saccade.runs.stopping import StepAbandoned
from saccade.studies import jobs, study
from saccade.studies.demo import run_demo
from saccade.studies.demo_recipe import DemoRecipe
from saccade.studies.study_recipe import load_study
from saccade.training.rl import Trainer, train

HOLD = """
import fcntl, json, os, psutil, sys, time
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(handle, fcntl.LOCK_EX)
began = psutil.Process().create_time()
me = {"pid": os.getpid(), "host": sys.argv[2], "began": began, "since": time.time(), "pids": sys.argv[3]}
os.ftruncate(handle, 0)
os.write(handle, json.dumps(me).encode())
if sys.argv[4] == "child":
    os.set_inheritable(handle, True)
    if os.fork():
        os._exit(0)
print(os.getpid(), flush=True)
time.sleep(600)
"""


@contextmanager
def holder(directory: Path, host: str | None = None, how: str = "parent") -> Iterator[int]:
    """A process that holds the lock, or with 'child' one whose parent took it and died."""
    space = os.readlink("/proc/self/ns/pid")
    command = [sys.executable, "-c", HOLD, str(directory / LOCK), host or socket.gethostname(), space, how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    if how == "child":
        process.wait()  # under load the parent may still be ending
    try:
        yield pid
    finally:
        psutil.Process(pid).kill()
        process.wait()


def test_the_second_writer_is_refused_with_process_host_and_time(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        since = time.strftime("%Y-%m-%d")
        words = f"in use by process {os.getpid()} on {socket.gethostname()} since {since}"
        with pytest.raises(InUse, match=words), locked(tmp_path / "run"):
            pass
        with pytest.raises(InUse, match=words):
            refuse_in_use(tmp_path / "run")
    with locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()


def test_a_killed_process_and_its_orphans_do_not_block(tmp_path: Path) -> None:
    with holder(tmp_path), pytest.raises(InUse), locked(tmp_path):
        pass
    with locked(tmp_path):  # it was killed
        pass
    with holder(tmp_path, how="child") as orphan:
        assert psutil.pid_exists(orphan)
        with locked(tmp_path), pytest.raises(InUse, match=f"process {os.getpid()} "), locked(tmp_path):
            pass


def test_a_holder_on_another_host_or_without_words_blocks(tmp_path: Path) -> None:
    with holder(tmp_path, host="elsewhere\x1b[2J"):
        with pytest.raises(InUse, match=r"on elsewhere\\x1b\[2J since"), locked(tmp_path):
            pass
        (tmp_path / LOCK).write_text("{")
        with pytest.raises(InUse, match="in use by another process; stop it first"), locked(tmp_path):
            pass


def test_a_clock_that_is_set_meanwhile_does_not_let_a_second_writer_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, boot = psutil.Process.create_time, psutil.boot_time()
    with locked(tmp_path):
        monkeypatch.setattr(psutil, "boot_time", lambda: boot + 3600)
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: began(self) + 3600)
        with pytest.raises(InUse, match=f"process {os.getpid()} "), locked(tmp_path):
            pass
        assert is_held(tmp_path)


@pytest.mark.parametrize(
    "words", ["[" * 5000, '{"pid": -5}', '{"pid": 1e400}', "5", '{"pid":1,"began":0,"since":1e300,"host":0,"pids":0}']
)
def test_words_of_a_lock_that_say_nothing_block_while_it_is_held(tmp_path: Path, words: str) -> None:
    with locked(tmp_path):
        (tmp_path / LOCK).write_text(words)
        assert is_held(tmp_path) is None
        with pytest.raises(InUse, match="another process"), locked(tmp_path):
            pass


@pytest.mark.parametrize("kind", ["a pipe", "a link to a pipe", "a folder", "a link"])
def test_a_lock_file_that_is_none_hangs_nobody_and_overwrites_nothing(tmp_path: Path, kind: str) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    run.mkdir()
    victim.write_text("precious")
    os.mkfifo(tmp_path / "pipe")
    if kind == "a pipe":
        os.mkfifo(run / LOCK)
    elif kind == "a folder":
        (run / LOCK).mkdir()
    else:
        (run / LOCK).symlink_to(victim if kind == "a link" else tmp_path / "pipe")
    assert is_held(run) is None
    with suppress(OSError), locked(run):
        pass
    assert victim.read_text() == "precious"


def test_what_a_killed_process_left_half_written_is_swept(tmp_path: Path) -> None:
    for name in (".config.yaml.partial", "images/a.partial", "checkpoints/.step-000003.partial/model.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    (tmp_path / "keep.txt").write_text("whole")
    with locked(tmp_path):
        left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == [LOCK, "checkpoints", "images", "keep.txt"]


def run(*argv: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in argv])
    return int(ended.value.code or 0)


def test_every_verb_that_writes_a_run_refuses_a_directory_in_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = write_world(tmp_path / "world", rows=4)
    recipe = rl_recipe(world, num_steps=1, checkpoint={"every": 1})
    (tmp_path / "rl.yaml").write_text(dump(recipe))
    out = tmp_path / "run"
    train(recipe, out)
    data = json.dumps([{"source": "vlm_r1", "path": str(world / "data.jsonl")}])
    own = ("eval", f"data={data}", f"model={world / 'model'}", "decoding.max_new_tokens=2", f"out={out / 'eval'}")
    assert run(*own) == 0
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != LOCK}
    capsys.readouterr()
    with holder(out), holder(out / "eval"):
        for words in (
            ("rl", tmp_path / "rl.yaml", "--out", out),
            ("resume", out),
            own,
            ("world", "pretrain", "world_base", "--out", out),
            ("demo", "--out", out),
            ("coldstart", "coldstart_world", "--out", out),
        ):
            assert run(*words) == 2
            err = capsys.readouterr().err.strip().splitlines()
            assert err[-1].startswith(f"saccade: {out}") and "is in use by process" in err[-1]
        assert run("report", out) == 0, "readers need no lock"
    (out / "report.html").unlink()
    assert files == {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != LOCK}


def test_a_lock_whose_file_was_removed_is_taken_again_and_a_faster_second_writer_stays_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with locked(run) as lock:
        lock.keep()
        (run / LOCK).unlink()
        lock.keep()
        with pytest.raises(InUse), locked(run):
            pass
        (run / LOCK).unlink()
        with locked(run), pytest.raises(InUse, match="in use by process"):
            lock.keep()


def had_by_another(run: Path) -> None:
    """Something removed the lock, and a process that has ended since took it meanwhile."""
    (run / LOCK).unlink()
    with holder(run):
        pass


def test_a_lock_that_another_process_had_meanwhile_is_not_taken_again(tmp_path: Path) -> None:
    with locked(tmp_path) as lock:
        os.replace(shutil.copy(tmp_path / LOCK, tmp_path / "copy"), tmp_path / LOCK)  # its own words came back
        lock.keep()
        had_by_another(tmp_path)
        for path in (tmp_path, tmp_path / "checkpoints" / "step-1"):
            with pytest.raises(
                InUse, match=r"something removed its \.lock, and process \d+ on .* wrote there meanwhile"
            ):
                keep_lock(path)
        keep_lock(tmp_path.parent / "elsewhere")


def test_two_starters_beside_an_orphan_do_not_remove_each_others_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one takes the lock while the first one looks whether its holder is dead."""
    real = lock_module._is_dead
    with ExitStack() as stack, holder(tmp_path, how="child"):

        def slow(words: dict[str, Any]) -> bool:
            monkeypatch.setattr(lock_module, "_is_dead", real)
            stack.enter_context(locked(tmp_path))
            return real(words)

        monkeypatch.setattr(lock_module, "_is_dead", slow)
        with pytest.raises(InUse, match=f"process {os.getpid()} "), locked(tmp_path):
            pass


def content(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != LOCK}


@pytest.mark.parametrize("where", ["collect", "record", "stopped", "diverged"])
def test_a_run_writes_nothing_beside_another_process(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not rows, not the checkpoint of a step that is abandoned, not `last` of a run that diverges."""
    world, run, before = write_world(tmp_path), tmp_path / "run", dict[Path, bytes]()

    def lose(self: Trainer, state: Any, *rest: Any) -> Any:
        if state.step == (2 if where == "record" else 1):
            if where == "stopped":
                (run / "rollouts.jsonl").write_bytes(b"of the other process\n")
            had_by_another(run)
            before.update(content(run))
            if where == "stopped":
                raise StepAbandoned
            if where == "diverged":
                raise FloatingPointError("a reply's log-probs are not finite")
        return real(self, state, *rest)

    name = "record" if where == "record" else "collect"
    real = getattr(Trainer, name)
    monkeypatch.setattr(Trainer, name, lose)
    with pytest.raises(InUse, match="wrote there meanwhile"):
        train(rl_recipe(world, num_steps=3, checkpoint={"every": 9 if where == "stopped" else 1}), run)
    assert before and content(run) == before


def test_an_evaluation_and_a_study_stop_before_they_write_beside_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:

        def lose(directory: Path) -> None:
            (directory / LOCK).unlink()
            stack.enter_context(locked(directory))

        class Answerer:
            whole_batches, lanes = True, 1

            def answer(self, questions: Sequence[EvalQuestion], decoding: Decoding, n: int) -> list[Answers]:
                lose(tmp_path / "eval")
                return [Failed("no reply") for _ in questions]

        asked = {"model": {"path": "base"}, "world": {"n": 1, "tasks": ["count"]}, "out": str(tmp_path / "eval")}
        with pytest.raises(InUse):
            evaluate(EvalRecipe.model_validate(asked), answerer=Answerer())
        idle = SimpleNamespace(is_alive=lambda: True, terminate=lambda: None, join=lambda timeout: None)
        monkeypatch.setattr(jobs, "_start", lambda job: idle)
        with pytest.raises(InUse), locked(tmp_path / "study") as lock:
            lose(tmp_path / "study")
            job = jobs.StudyJob("one", lambda directory: {}, tmp_path / "study/one", {})
            jobs.run_all([job], 1, Console(quiet=True), keep=lock.keep)


VERBS: dict[str, Callable[[Path], object]] = {
    "coldstart": lambda out: cold_start.run(load("coldstart_world", ColdStartRecipe, [f"out={out}"])),
    "eval": lambda out: evaluate(load("world_eval", EvalRecipe, [f"out={out}"])),
    "pretrain": lambda out: pretrain.train(base_recipe(out)),
    "study": lambda out: study.run_study(load_study("box_inflation"), out, [1], Console(quiet=True)),
    "demo": lambda out: run_demo(load("demo", DemoRecipe), out, 7, Console(quiet=True)),
    "rl": lambda out: Run.refuse_existing(out),
}


@pytest.mark.parametrize("kind", VERBS)
def test_no_verb_changes_the_directory_of_another_kind_of_run(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by its config.yaml nor, without one, by the files that tell what it is; not even to sweep it."""
    monkeypatch.setattr(study, "check_arms", lambda recipe: None)  # takes seconds, before anything is written
    marks = {name: "" for name, kinds in lock_module.WRITERS.items() if kind not in kinds}
    configs = {f"kind: {one}\n" for one in (*VERBS, "sft") if one != kind} | {"lr: 3\n", "kind: ["}
    for number, (name, text) in enumerate([*marks.items(), *(("config.yaml", text) for text in configs)]):
        (out := tmp_path / str(number)).mkdir()
        there = {name: text, ".step-000005.partial": "half", "own.txt": "precious"}
        for file, content in there.items():
            (out / file).write_text(content)
        with pytest.raises((ValueError, FileExistsError), match=rf"{out} (already )?holds .*choose another") as said:
            VERBS[kind](out)
        assert "\n" not in str(said.value)
        assert {path.name: path.read_text() for path in out.iterdir()} == there, (name, text)


def test_a_cold_start_leaves_a_directory_alone_whose_run_is_only_beginning(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    with holder(tmp_path), pytest.raises(InUse, match=r"is in use by process"):
        VERBS["coldstart"](tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.mark.parametrize("kind", VERBS)
def test_no_verb_writes_into_a_checkpoint(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose new files would count as damage."""
    monkeypatch.setattr(study, "check_arms", lambda recipe: None)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is a checkpoint, or another folder with a state\.json; choose another"):
        VERBS[kind](tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    (tmp_path / "state.json").rename(tmp_path / "config.yaml")
    with pytest.raises(ValueError, match=r"holds the checkpoints of a run; choose another"):
        VERBS[kind](tmp_path / "checkpoints")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
