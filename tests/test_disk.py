"""A disk that is full, read-only or gone: one line that says where, how much is free, what is whole and what to do."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from training_runs import rl_recipe, write_world

from saccade import cli
from saccade.base import pretrain
from saccade.base.config import PretrainMixture, PretrainRecipe, PretrainStage
from saccade.config import dump
from saccade.data import roots
from saccade.disk import (
    AGAIN,
    DiskError,
    disk_reason,
    partial_folder,
    partial_of,
    read_text,
    sweep,
    write_text,
    writing,
)
from saccade.endpoint import EndpointError, ReplyCache
from saccade.evaluation.items import append_items, read_items
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy
from saccade.rollout.vllm_weights import write_weights
from saccade.runs import trackers
from saccade.studies.jobs import JobFailed, StudyJob, result_of, run_all
from saccade.training import checkpoint
from saccade.training.config import RLRecipe
from saccade.training.rl import train
from saccade.world import World
from saccade.world.export import write_dataset


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The kernel refuses to let any file grow beyond `size` bytes, as a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


LINE = r"{out}: cannot be written \([^)\n]*; [\d,]+ bytes are free\); {then}"


def line(out: Path, then: str) -> str:
    return LINE.format(out=re.escape(str(out)), then=then)


def test_the_way_out_is_that_of_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = (errno.EROFS, errno.ENOSPC)
    read_only, full = (str(DiskError(tmp_path, f"{os.strerror(code)}: x", AGAIN)) for code in codes)
    assert "; make it writable and run the same" in read_only and "; free some space and run" in full
    left = SimpleNamespace(f_files=9, f_favail=0, f_bavail=9, f_frsize=9, f_blocks=9, f_bfree=9)
    monkeypatch.setattr(os, "statvfs", lambda _: left)
    full = str(DiskError(tmp_path, os.strerror(errno.ENOSPC), AGAIN))
    assert "81 bytes are free, and no more files can be made); remove some files and run" in full


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "last" / "model.safetensors")


def recipe_of(world: Path) -> RLRecipe:
    """All parts train, so that the optimizer's state is larger than the weights."""
    model = {"path": str(world / "model"), "device": "cpu", "train": ["vision", "projector", "language"]}
    return rl_recipe(world, num_steps=3, checkpoint={"every": 1, "keep": 9}, model=model)


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(recipe_of(world), out)
    return out


@pytest.mark.parametrize(
    "file", [pytest.param("model.safetensors", marks=pytest.mark.slow), "trainer.pt", "rollouts.jsonl"]
)
def test_a_full_disk_during_training_is_one_line_and_nothing_is_lost(
    world: Path, whole: Path, tmp_path: Path, file: str
) -> None:
    sizes = {path.name: path.stat().st_size for path in (whole / "checkpoints" / "last").iterdir()}
    sizes["rollouts.jsonl"] = (whole / "rollouts.jsonl").stat().st_size
    assert sizes["trainer.pt"] > sizes["model.safetensors"] > sizes["rollouts.jsonl"] > 9_000
    out = shutil.copytree(whole, tmp_path / "run", symlinks=True)
    for step in (2, 3):
        shutil.rmtree(out / "checkpoints" / f"step-{step:06d}")  # as if it had been stopped after step 1
    after = r"checkpoint step-000001 and its rows are whole; free some space, then continue with: saccade resume \S+$"
    with no_file_beyond(sizes[file] - 100), pytest.raises(DiskError, match=line(out, after)) as full:
        train(recipe_of(world), out, resume=True)
    assert "\n" not in str(full.value)
    train(recipe_of(world), out, resume=True)
    assert all(torch.equal(weights(out)[name], one) for name, one in weights(whole).items())
    assert not list(out.rglob("*.partial"))


def test_a_disk_that_is_full_from_the_start_says_so(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, recipe = tmp_path / "run", rl_recipe(world, num_steps=2)
    (tmp_path / "rl.yaml").write_text(dump(recipe))
    with no_file_beyond(500):
        assert run("rl", tmp_path / "rl.yaml", "--out", out) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(line(out, "nothing is there; start again with more space or elsewhere"), err)
    with no_file_beyond(20_000):
        assert run("rl", tmp_path / "rl.yaml", "--out", out) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(line(out, "no checkpoint was saved yet; free .* saccade resume .* --from start"), err)


def run(*argv: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in argv])
    return int(ended.value.code or 0)


def test_every_other_verb_says_it_in_one_line_too(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, again = tmp_path / "pairs.jsonl", "free some space and run the same command again"
    pairs.write_text("\n".join([json.dumps({"prediction": "a" * 300, "gold": "b"})] * 40) + "\n")
    data = json.dumps([{"source": "vlm_r1", "path": str(world / "data.jsonl")}])
    own = (f"data={data}", f"model={world / 'model'}", "decoding.max_new_tokens=2")
    verbs: dict[Path, tuple[Any, ...]] = {
        tmp_path / "eval": ("eval", *own, f"out={tmp_path / 'eval'}"),
        tmp_path: ("grade", pairs, "--out", tmp_path / "graded.jsonl"),
        tmp_path / "sets": ("convert", world / "data.jsonl", tmp_path / "sets" / "one", "--from", "vlm_r1"),
        tmp_path / "made": ("world", "make", tmp_path / "made" / "one", "-n", "2"),
        tmp_path / "page": ("report", tmp_path / "done", "--out", tmp_path / "page" / "report.html"),
    }
    verbs[tmp_path / "new"] = ("new", "rl", "--out", tmp_path / "new" / "r.yaml")
    (tmp_path / "page").mkdir()
    (tmp_path / "new").mkdir()
    assert run("eval", *own, f"out={tmp_path / 'done'}") == 0
    capsys.readouterr()
    for folder, words in verbs.items():
        with no_file_beyond(1_000):
            assert run(*words) == 2, words
        err = capsys.readouterr().err.strip().splitlines()[-1]
        assert re.search(line(folder, ".*free some space"), err), err
        assert not list(folder.rglob("*.partial"))
        assert run(*words) == 0, (words, again)
        capsys.readouterr()


def test_an_export_says_it_and_leaves_nothing(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("export", whole, "--out", tmp_path / "model")
    with no_file_beyond(50_000):
        assert run(*words) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(line(tmp_path, rf"{tmp_path}/model was not written; free some space"), err), err
    assert not list(tmp_path.iterdir())
    assert run(*words) == 0


FULL = {
    "a file": OSError(errno.ENOSPC, "No space left on device", "/a/b"),
    "a database": sqlite3.OperationalError("disk I/O error"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
}


@pytest.mark.parametrize("what", list(FULL))
def test_where_no_verb_knows_more_it_is_still_one_line(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb() -> None:
        raise FULL[what]

    monkeypatch.setitem(cli.VERBS, "tiny", (verb, "Writes.", "saccade tiny"))
    assert run("tiny") == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"saccade: a file cannot be written \(.*\); free some space and run the same .* again\n", err)


def test_the_disk_that_is_full_is_the_one_that_is_named(world: Path, tmp_path: Path) -> None:
    """The weights for a server, in memory say, are not on the disk of the run."""
    policy = load_policy(ModelConfig(path=str(world / "model"), device="cpu"))
    weights, run_dir = tmp_path / "shm", tmp_path / "run"
    outer, then = writing(run_dir, "the run is whole"), ".*for the weights that servers load"
    with no_file_beyond(9_000), pytest.raises(DiskError, match=line(weights, then)), outer:
        write_weights(policy, weights)


def fill(directory: Path, size: int) -> dict[str, int]:
    (directory / "big").write_bytes(bytes(size))
    return {"size": size}


@pytest.mark.parametrize("limit", [pytest.param(100_000, marks=pytest.mark.slow), 10])
def test_a_job_of_a_study_says_it_also_where_its_log_is_full_too(tmp_path: Path, limit: int) -> None:
    job = StudyJob("fill", fill, tmp_path / "fill", {"size": 200_000})
    with no_file_beyond(limit), pytest.raises(JobFailed, match=r"'fill' failed: .*(File too large|cannot be written)"):
        run_all([job], 1, Console(quiet=True))


def test_the_base_says_it_and_a_damaged_state_is_named(tmp_path: Path) -> None:
    mixture = PretrainMixture(scenes={"shapes": 1.0})
    stage = PretrainStage(name="see", loss="perception", steps=2, rows=1, mixture=mixture)
    recipe = PretrainRecipe(out=str(tmp_path / "base"), size="S", save_every=1, stages=(stage,))
    with no_file_beyond(50_000), pytest.raises(DiskError, match=line(tmp_path / "base", "what was saved is whole")):
        pretrain.train(recipe)
    assert (pretrain.train(recipe) / "config.json").is_file()
    (tmp_path / "base" / "stage-1-see").rename(tmp_path / "gone")
    (tmp_path / "base" / "start" / "stage.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"start: the stage is damaged \(stage\.pt .*; remove .*start and what came"):
        pretrain.train(recipe)


def test_a_cache_that_cannot_be_written_costs_no_reply(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = ReplyCache(tmp_path / "cache.sqlite")
    with no_file_beyond((tmp_path / "cache.sqlite").stat().st_size):
        for key in "abc":
            cache.put(key, "m", {"text": "x" * 100_000})
    assert sum("replies are not cached" in message for message in caplog.messages) == 1
    cache.close()
    with no_file_beyond(100), pytest.raises(DiskError, match=line(tmp_path, r"new\.sqlite is not open")):
        ReplyCache(tmp_path / "new.sqlite")


def test_what_libraries_make_of_a_full_disk_is_recognized_and_other_errors_pass(tmp_path: Path) -> None:
    big = {"a": torch.zeros(100_000)}
    found = []
    with no_file_beyond(1_000):
        for save in (lambda: torch.save(big, tmp_path / "a.pt"), lambda: save_file(big, tmp_path / "a.safetensors")):
            try:
                save()
            except Exception as error:  # noqa: BLE001 - its type is what is asked
                found.append(disk_reason(error, tmp_path))
    assert found == ["torch could not write a file", os.strerror(errno.EFBIG)]
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
        assert disk_reason(OSError(code, "x"), tmp_path) == os.strerror(code)
    inside = PermissionError(errno.EACCES, "x", str(tmp_path / "f"))
    assert "f" in str(disk_reason(inside, tmp_path))
    quoted = EndpointError("http://host", "status 500", body="[Errno 28] No space left on device, disk is full")
    denied = PermissionError(errno.EACCES, "x", "/etc/f")
    for other in (denied, quoted, ConnectionError("x"), ValueError("[Errno 28] of a server"), RuntimeError()):
        assert disk_reason(other, tmp_path) is None
        with pytest.raises(type(other)), writing(tmp_path, "y"):
            raise other
    with pytest.raises(DiskError, match="outer"), writing(tmp_path, "outer"), writing(tmp_path, "inner"):
        raise OSError(errno.ENOSPC, "x")


def test_a_text_is_whole_or_as_it_was_and_leftovers_are_swept(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with no_file_beyond(10), pytest.raises(DiskError, match=r"a\.txt is as it was"):
        write_text(file, "new" * 100)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and file.read_text() == "old"
    (tmp_path / f".b.txt.{2**22 - 1}.partial").write_text("of a process that is gone")
    partial_of(tmp_path / "c.txt").write_text("of this process")
    (tmp_path / ".d.partial").symlink_to("nowhere")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".c.txt.{os.getpid()}.partial", "a.txt"]
    assert checkpoint.steps(tmp_path) == []


def test_what_is_no_file_is_never_replaced_by_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "folder").mkdir()
    for name, words in {"pipe": "a device, a pipe", "link": "a device, a pipe", "folder": "is a directory"}.items():
        with pytest.raises(ValueError, match=words):
            write_text(tmp_path / name, "x")
    for nameless in (".", "/"):
        with pytest.raises(ValueError, match="is a directory, expected the name of a file"):
            write_text(Path(nameless), "x")
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 3


def test_nothing_is_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the directory of others."""
    monkeypatch.setattr(roots, "KEY", tmp_path / "key")
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    victim.write_text("mine")
    folder.mkdir()
    writes: dict[str, Callable[[], object]] = {
        roots.ROOTS: lambda: roots.record(folder, [tmp_path]),
        trackers.IDS: lambda: trackers._keep_id(folder, "wandb", "a"),
        partial_of(folder / "t.txt").name: lambda: write_text(folder / "t.txt", "x"),
        partial_of(folder / "u.txt").name: lambda: partial_of(folder / "u.txt").write_text("x"),
    }
    for name, write in writes.items():
        (folder / name).symlink_to(victim)
        write()
        assert victim.read_text() == "mine" and not (folder / name).is_symlink()
    for target in (victim, tmp_path / "nothing"):
        (folder / "items.jsonl").unlink(missing_ok=True)
        (folder / "items.jsonl").symlink_to(target)
        with pytest.raises(ValueError, match=r"items\.jsonl: is a link, which is not written through"):
            append_items(folder / "items.jsonl", [])
    assert not (tmp_path / "nothing").exists()


def test_a_folder_that_a_killed_process_of_the_same_number_left_is_made_anew(tmp_path: Path) -> None:
    """In a container every process may have the number 2."""
    for write in (lambda out: partial_folder(out), lambda out: write_dataset(World(), out, 1, 0, "test", ["count"])):
        left = partial_of(tmp_path / "out")
        left.mkdir(exist_ok=True)
        (left / "half").touch()
        write(tmp_path / "out")
        assert not (left / "half").exists()
    assert (tmp_path / "out").is_dir() and not left.exists()


def test_a_text_of_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"kind: \xff")
    with pytest.raises(ValueError, match=r"config\.yaml: byte 6 is not UTF-8; save the file as UTF-8, or restore it"):
        read_text(tmp_path / "config.yaml")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """In a run's directory, by whoever wrote it."""
    make(path := tmp_path / "job.json")
    for read in (read_text, read_items):
        with pytest.raises(ValueError, match=r"job\.json: is no regular file; move it away"):
            read(path)
    assert result_of(tmp_path) is None
