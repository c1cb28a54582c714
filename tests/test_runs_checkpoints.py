"""Checkpoints: verified before a resume, passed over aloud when damaged, chosen by name; later changes are named."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from training_runs import rl_recipe, write_world

from saccade import cli
from saccade.cli.runs import steps_without_update
from saccade.config import dump
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy
from saccade.runs.lock import locked
from saccade.runs.records import STREAMS, Run
from saccade.training import changes, checkpoint, generators
from saccade.training.changes import compare
from saccade.training.config import RLRecipe, SFTRecipe
from saccade.training.divergence import has_finite_logprobs
from saccade.training.optim import TrainingStopped
from saccade.training.resuming import Resume, find, prepare
from saccade.training.rl import train
from saccade.training.saved_state import fault_of
from saccade.training.sft import train as train_sft

CLOCKS = ("time/", "tokens/per_s", "memory/")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def recipe_of(world: Path, **changed: Any) -> RLRecipe:
    return rl_recipe(world, **{"num_steps": 3, "checkpoint": {"every": 1, "keep": 9}} | changed)


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train(recipe_of(world), out)
    return out


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of a finished run of three steps with their checkpoints."""
    shutil.copytree(whole, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def rows(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(CLOCKS) and k != "run"} for row in lines]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without_sizes(path: Path) -> None:
    state = json.loads(path.read_text())
    del state["sizes"]["metrics.jsonl"]
    path.write_text(json.dumps(state))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "weights cut": (lambda p: os.truncate(p / "model.safetensors", 999), "model.safetensors has 999 bytes"),
    "weights flipped": (lambda p: flip(p / "model.safetensors"), "model.safetensors was changed"),
    "optimizer empty": (lambda p: os.truncate(p / "trainer.pt", 0), "trainer.pt has 0 bytes"),
    "optimizer flipped": (lambda p: flip(p / "trainer.pt"), "trainer.pt was changed"),
    "optimizer gone": (lambda p: (p / "trainer.pt").unlink(), "trainer.pt is missing"),
    "config gone": (lambda p: (p / "config.json").unlink(), "config.json is missing"),
    "tokenizer cut": (lambda p: os.truncate(p / "tokenizer.json", 9), "tokenizer.json has 9 bytes"),
    "state empty": (lambda p: os.truncate(p / "state.json", 0), "state.json cannot be read"),
    "state of holes": (lambda p: os.truncate(p / "state.json", 1 << 40), "state.json has 1,099,511,627,776 bytes"),
    "state gone": (lambda p: (p / "state.json").unlink(), "state.json is missing"),
    "state a list": (lambda p: (p / "state.json").write_text("[1]"), "state.json was changed"),
    "step edited": (lambda p: edit(p / "state.json", step=9), "state.json was changed"),
    "a stream's size gone": (lambda p: without_sizes(p / "state.json"), "state.json was changed"),
    "of another step": (lambda p: other_step(p), "state.json is of step 2"),
    "state a FIFO": (lambda p: [(p / "state.json").unlink(), os.mkfifo(p / "state.json")], "state.json is missing"),
    "state a folder": (lambda p: [(p / "state.json").unlink(), (p / "state.json").mkdir()], "state.json is missing"),
    "state nested": (lambda p: (p / "state.json").write_text("[" * 100_000), "state.json cannot be read"),
    "state of digits": (lambda p: (p / "state.json").write_text("9" * 5_000), "state.json cannot be read"),
    "weights a FIFO": (lambda p: [(p / "trainer.pt").unlink(), os.mkfifo(p / "trainer.pt")], "trainer.pt is missing"),
    "all gone": (lambda p: [file.unlink() for file in p.iterdir()], "state.json is missing"),
    "of a version without hashes": (lambda p: another_version(p, files=None), "state.json is of another version"),
    "of one with other hashes": (lambda p: another_version(p, files=[["a", 1]]), "state.json is of another version"),
    "of one with named steps": (lambda p: another_version(p, step="final"), "state.json is of another version"),
    "of one with endless steps": (lambda p: another_version(p, step=float("inf")), "state.json is of another version"),
    "of one that names no files": (lambda p: another_version(p, files={}), "state.json names no files"),
    "of one with sizes below 0": (lambda p: below_0(p), "rows were lost"),
    "of one with other facts": (lambda p: another_version(p, facts=None), "state.json: 'facts' is missing or odd"),
    "of one with a size of another file": (lambda p: another_file(p), "state.json: 'sizes' is missing or odd"),
    "a template added": (lambda p: write(p / "chat_template.json", b"{}"), "chat_template.json was not there"),
    "settings added": (lambda p: write(p / "processor_config.json", b"{}"), "processor_config.json was not there"),
    "a reference added": (lambda p: (p / "reference").mkdir(), "reference was not there"),
    "shards added": (lambda p: (p / "shards").symlink_to(p), "shards was not there"),
    "rows lost": (lambda p: cut_rows(p, 50), "rows were lost"),
    "rows gone": (lambda p: cut_rows(p, None), "rows were lost"),
    "rows edited": (lambda p: shift_rows(p), "the file was edited"),
}


def other_step(path: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(path.with_name("step-000002"), path)


def another_version(path: Path, **changed: Any) -> None:
    """A state file that is whole, of a program that writes other values, or none where they are None."""
    state = {key: value for key, value in json.loads((path / "state.json").read_text()).items() if key != "hash"}
    state = {key: value for key, value in (state | changed).items() if key not in changed or value is not None}
    (path / "state.json").write_text(json.dumps(state | {"hash": checkpoint._hash_of(state)}))


def below_0(path: Path) -> None:
    another_version(path, sizes=dict.fromkeys(STREAMS, -1), best_score=0.0, best_step=1)


def another_file(path: Path) -> None:
    sizes = json.loads((path / "state.json").read_text())["sizes"]
    another_version(path, sizes=sizes | {"../odd": 0})


def cut_rows(path: Path, count: int | None) -> None:
    stream = path.parent.parent / "metrics.jsonl"
    size = json.loads((path.with_name("step-000002") / "state.json").read_text())["sizes"]["metrics.jsonl"]
    os.truncate(stream, size if count is None else stream.stat().st_size - count)


def shift_rows(path: Path) -> None:
    stream = path.parent.parent / "rollouts.jsonl"
    stream.write_bytes(stream.read_bytes() + b"...")
    state = json.loads((path / "state.json").read_text())
    state["sizes"]["rollouts.jsonl"] += 2
    del state["hash"]
    (path / "state.json").write_text(json.dumps(state | {"hash": checkpoint._hash_of(state)}))


@pytest.mark.parametrize("name", list(DAMAGES))
def test_a_damaged_checkpoint_is_passed_over_aloud(run: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    damage, why = DAMAGES[name]
    damage(run / "checkpoints" / "step-000003")
    with caplog.at_level(logging.INFO):
        opened = Run(run)
        found = find(opened, Resume())
        prepare(opened, found, Resume())
    assert found is not None and found.step == 2
    assert any(m.startswith("checkpoint step-000003 is damaged: ") and why in m for m in caplog.messages), caplog.text
    assert any(m.endswith("resuming " + f"{run} after step 2 (checkpoint step-000002)") for m in caplog.messages)
    assert {row["step"] for name in STREAMS for row in rows(run / name)} == {1, 2}
    assert sorted(os.listdir(run / "checkpoints")) == ["damaged-step-000003-1", "last", "step-000001", "step-000002"]
    assert (run / "checkpoints" / "last").resolve().name == "step-000002"


FREE = ("recipe", "packages", "data_hash", "images", "code_hash", "skipped", "sizes")
"""Sections whose keys are names that users give, or of the streams."""


def spots(node: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Places of all keys of a state that training itself names."""
    inside = node if isinstance(node, dict) and at[-1:] not in [(name,) for name in FREE] else {}
    return [spot for key in inside for spot in ((*at, key), *spots(node[key], (*at, key)))]


def test_a_state_with_any_key_gone_or_odd_is_of_another_version_and_its_own_is_not(whole: Path) -> None:
    text = (whole / "checkpoints/step-000003/state.json").read_text()
    assert fault_of(json.loads(text)) is None
    for *section, key in (one for one in spots(json.loads(text)) if one[0] not in ("files", "hash")):
        for gone in (True, False):
            state = node = json.loads(text)
            for name in section:
                node = node[name]
            node[key] = ((None,),)  # of no kind that JSON has
            if gone:
                del node[key]
            is_new = key in (
                "images",
                "code_hash",
                "rows",
                "processes",
                "python",
            )  # checkpoints of earlier versions have none
            assert (fault_of(state) is None) is (gone and is_new), (section, key, gone)


def test_a_run_that_was_copied_with_its_links_followed_is_resumed(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=False)
    (copy / "checkpoints" / "best").mkdir()
    found = find(Run(copy), Resume())
    prepare(Run(copy), found, Resume())
    names = {path.name for path in (copy / "checkpoints").iterdir() if not path.name.startswith("step-")}
    assert names == {"last", "copied-last-1", "copied-best-1"} and (copy / "checkpoints" / "last").is_symlink()
    assert "was no link but a copy; it is kept as copied-last-1" in caplog.text


def test_without_links_there_is_no_last_and_the_run_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, target: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    checkpoint.link(run / "checkpoints", "last", "step-000001")
    assert "this file system has no links" in caplog.text


def test_the_run_that_passed_over_a_checkpoint_ends_like_one_that_did_not(world: Path, whole: Path, run: Path) -> None:
    for step in (2, 3):
        flip(run / "checkpoints" / f"step-{step:06d}" / "model.safetensors")
    train(recipe_of(world), run, resume=True)
    for name in STREAMS:
        assert rows(run / name) == rows(whole / name)
    ours, theirs = (checkpoint.latest(one) for one in (run, whole))
    assert ours is not None and theirs is not None and ours.step == theirs.step == 3
    assert ours.state["files"]["model.safetensors"] == theirs.state["files"]["model.safetensors"]


def test_without_a_whole_checkpoint_a_resume_refuses_and_deletes_nothing(world: Path, run: Path) -> None:
    before = {name: (run / name).read_bytes() for name in STREAMS}
    for path in checkpoint.steps(run):
        flip(path / "trainer.pt")
    with pytest.raises(ValueError, match=r"no whole checkpoint but rows \(3 in metrics.jsonl.* --from start"):
        train(recipe_of(world), run, resume=True)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ValueError, match=r"no checkpoint but rows \(3 in metrics.jsonl.* --from start"):
        train(recipe_of(world), run, resume=True)
    assert before == {name: (run / name).read_bytes() for name in STREAMS}
    train(recipe_of(world), run, resume=Resume("start"))
    for name in STREAMS:
        assert (run / "before-resume-1" / name).read_bytes() == before[name]
    assert [row["step"] for row in rows(run / "metrics.jsonl")] == [1, 2, 3]


def test_what_something_else_removes_or_puts_in_the_way_costs_no_run(world: Path, run: Path) -> None:
    (run / "checkpoints/step-000003").rename(run / "elsewhere")
    (run / "checkpoints/step-000003").symlink_to(run / "elsewhere")  # the next one of that step needs the name
    rewritten = b'{"update/skipped": 1}\n[1]\n\xff\n' + (run / "metrics.jsonl").read_bytes()
    assert steps_without_update(write(run / "odd.jsonl", rewritten)) == (3, [])
    Run(run).keep_config(recipe_of(world))
    before = (run / "config.yaml").read_text()
    (run / "config.yaml").unlink()
    Run(run).keep_config(recipe_of(world))
    assert (run / "config.yaml").read_text() == before
    assert main("resume", run) == 0
    assert [path.name for path in checkpoint.steps(run)][1:] == ["step-000002", "step-000003"]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("renames", range(3))
def test_a_kill_while_a_step_is_saved_again_leaves_the_one_or_the_other(
    run: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, left = checkpoint.folder(run) / "step-000003", [renames]
    fresh = checkpoint.begin(run, 3)
    shutil.copytree(last, fresh)
    (fresh / "state.json").unlink()
    state = {k: v for k, v in json.loads((last / "state.json").read_text()).items() if k not in ("hash", "files")}

    def rename(path: Path, target: Path, plain: Callable[[Path, Path], Path] = Path.rename) -> Path:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return plain(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with contextlib.suppress(KeyboardInterrupt):
            checkpoint.publish(fresh, state)
    with locked(run):
        found = find(Run(run), Resume())
    assert found is not None and found.step == 3
    assert {path.name for path in last.parent.iterdir()} - {"last", "best"} == {f"step-00000{n}" for n in (1, 2, 3)}


def test_strange_names_are_no_checkpoints_and_are_named(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = run / "checkpoints"
    shutil.copytree(root / "step-000001", root / "step-000009.bak")
    for name in ("step-old", "step-", "step-12", "step--00001", "step-00000١", "epoch-3"):
        (root / name).mkdir()
    (root / "step-000008").write_text("a file")
    (root / "step-000007").symlink_to("step-000001")
    with caplog.at_level(logging.INFO):
        found = find(Run(run), Resume())
    assert found is not None and found.step == 3
    assert [path.name for path in checkpoint.steps(run)] == [f"step-00000{step}" for step in (1, 2, 3)]
    assert "ignored, not named like a checkpoint: epoch-3, step-, step--00001, step-000007" in caplog.text
    checkpoint.prune(run, keep=1)
    assert (root / "step-old").is_dir() and (root / "step-000009.bak").is_dir()
    assert [path.name for path in checkpoint.steps(run)] == ["step-000003"]


def test_what_only_has_the_name_of_a_checkpoint_takes_the_place_of_none(run: Path) -> None:
    """A run keeps what it saved, also beside an empty folder or a copy under a later name."""
    root = run / "checkpoints"
    (root / "step-000999").mkdir()
    shutil.copytree(root / "step-000001", root / "step-000998")
    (root / "step-000002" / checkpoint.STATE_FILE).write_text("{")
    for keep, left in ((2, ["1", "2", "3"]), (1, ["2", "3"])):
        checkpoint.prune(run, keep)
        assert [path.name[-1] for path in checkpoint.steps(run)] == [*left, "8", "9"]


@pytest.mark.parametrize("where", ["step-000002", "step-2", "2"])
def test_a_named_checkpoint_is_resumed_and_what_came_after_is_kept_aside(run: Path, where: str) -> None:
    (run / "eval" / "step-3").mkdir(parents=True)
    (run / "eval" / "step-2").mkdir()
    before, opened = {name: (run / name).read_bytes() for name in STREAMS}, Run(run)
    found = find(opened, Resume(where))
    assert found is not None and found.step == 2
    prepare(opened, found, Resume(where))
    aside = run / "before-resume-1"
    assert {row["step"] for name in STREAMS for row in rows(run / name)} == {1, 2}
    assert all((run / name).read_bytes() + (aside / name).read_bytes() == before[name] for name in STREAMS)
    assert (aside / "checkpoints" / "step-000003" / "model.safetensors").is_file()
    assert (aside / "eval" / "step-3").is_dir() and (run / "eval" / "step-2").is_dir()
    assert (run / "checkpoints" / "last").resolve().name == "step-000002"
    newest = find(opened, Resume())
    assert newest is not None and newest.step == 2, "a kill after this must not go back to the other timeline"


def test_what_came_after_stays_where_its_folder_is_a_link_to_another_disk(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "eval" / "step-3").mkdir(parents=True)
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if Path(target).parent != self.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(self))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    prepare(Run(run), find(Run(run), Resume("step-2")), Resume("step-2"))
    assert (run / "checkpoints" / "before-resume-step-000003-1" / "model.safetensors").is_file()
    assert (run / "eval" / "before-resume-step-3-1").is_dir() and (run / "before-resume-1" / "metrics.jsonl").is_file()
    assert [path.name for path in checkpoint.steps(run)] == ["step-000001", "step-000002"]
    newest = find(Run(run), Resume())
    assert newest is not None and newest.step == 2


def test_checkpoints_that_are_there_are_among_those_that_the_disk_must_hold(
    world: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(recipe_of(world).model)
    each = sum(file.stat().st_size for file in (run / "checkpoints" / "step-000003").iterdir())
    free = shutil.disk_usage(run)._replace(free=3 * each)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(ValueError, match=r"run/checkpoints: 5 checkpoints need \d+\.\d MB but \d+\.\d MB are free"):
        checkpoint.check_disk_space(run, policy, keep=3)
    with pytest.raises(ValueError, match="4 checkpoints need"):  # those after it are kept aside
        checkpoint.check_disk_space(run, policy, keep=3, resumed=1)
    checkpoint.check_disk_space(run, policy, keep=3, resumed=3)


def test_a_name_that_is_not_there_or_damaged_is_refused(run: Path) -> None:
    flip(run / "checkpoints" / "step-000002" / "trainer.pt")
    with pytest.raises(ValueError, match=r"checkpoint step-000002 is damaged: trainer.pt was changed"):
        find(Run(run), Resume("step-000002"))
    for where in ("step-000007", "latest", "../step-000001", "step-x"):
        with pytest.raises(ValueError, match="there are: step-000001, step-000002, step-000003; or say: start"):
            find(Run(run), Resume(where))


def test_all_three_generators_come_back(world: Path, tmp_path: Path) -> None:
    kept = generators.state()
    torch.save(kept, tmp_path / "rng.pt")
    first = [random.random(), float(np.random.standard_normal()), float(torch.rand(()))]
    generators.restore(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert first == [random.random(), float(np.random.standard_normal()), float(torch.rand(()))]


def main(*argv: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in argv])
    return int(ended.value.code or 0)


def test_a_diverged_run_ends_in_one_line_that_names_the_checkpoint_to_go_back_to(
    world: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config |= {"num_steps": 5, "optim": config["optim"] | {"lr": 1e10, "warmup_steps": 0, "decay": "constant"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert main("resume", run) == 2
    err = capsys.readouterr().err
    assert "optim.lr: 0.001 -> 10000000000.0" in err and "num_steps: 3 -> 5" in err and "--accept-changes" in err
    assert main("resume", run, "--accept-changes") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the newest checkpoint with finite log-probs is step-000003 (`last`); lower optim.lr" in last
    root = run / "checkpoints"
    assert (root / "last").resolve().name == "step-000003"
    assert (root / "diverged-step-000004-1").is_dir() and not (root / "step-000004").exists()
    assert has_finite_logprobs(root / "last", ModelConfig(path="base"))
    config["optim"]["lr"] = 1e-4
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert main("resume", run, "--accept-changes") == 0
    assert [row["step"] for row in rows(run / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_a_run_that_diverges_before_any_good_checkpoint_says_that_there_is_none(world: Path, tmp_path: Path) -> None:
    recipe = recipe_of(world, optim={"lr": 1e10}, num_steps=4)
    with pytest.raises(TrainingStopped, match=r"no checkpoint with finite log-probs was saved; .*--from start") as end:
        train(recipe, tmp_path / "run")
    assert "\n" not in str(end.value)


def test_a_run_that_diverges_in_its_last_steps_is_not_done(world: Path, tmp_path: Path) -> None:
    base = rl_recipe(world).model_dump(mode="json")
    data = [{"source": "vlm_r1", "path": str(world / "data.jsonl"), "reply": "gold"}]
    for steps, lr in ((3, 1e25), (1, 1e10)):  # also by the last update, whose gradient was finite
        optim = {"lr": lr, "warmup_steps": 0}
        asked = {"model": base["model"], "data": data, "num_steps": steps, "prompts_per_step": 2, "optim": optim}
        words = rf"after step {steps}, the last one, the model gives no finite log-probs; no checkpoint .* was saved"
        with pytest.raises(TrainingStopped, match=words):
            train_sft(SFTRecipe.model_validate(asked), tmp_path / str(steps))


def test_changed_data_is_refused_by_name_and_accepted_on_request(tmp_path: Path) -> None:
    world = write_world(tmp_path / "world")
    recipe, data = recipe_of(world, num_steps=2), world / "data.jsonl"
    train(recipe, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000002")
    data.write_text("\n".join(reversed(data.read_text().splitlines()[:4])) + "\n")
    with pytest.raises(ValueError, match=r"since checkpoint step-000001 .*data 'data': its content changed") as refused:
        train(recipe, tmp_path / "run", resume=True)
    assert "--accept-changes" in str(refused.value) and "\n" not in str(refused.value)
    shutil.rmtree(world / "model")  # a resume reads the checkpoint, not the base
    assert train(recipe, tmp_path / "run", resume=Resume(accept_changes=True)).step == 2


def test_each_change_is_named_and_only_what_trains_otherwise_is_refused(world: Path) -> None:
    environment = {"packages": {"torch": "1"}, "data_hash": {"d": "a" * 64}, "model_hash": "b" * 64, "device": "cpu"}
    before = changes.facts(recipe_of(world).model_dump(mode="json"), environment)

    def changed(facts: dict[str, Any] | None = None, **recipe: Any) -> tuple[list[str], list[str]]:
        now = changes.facts(recipe_of(world, **recipe).model_dump(mode="json"), environment | (facts or {}))
        found = compare(before, now)
        return list(found.training), list(found.other)

    assert changed() == ([], [])
    assert changed(max_hours=2, image_workers=2) == ([], ["max_hours: None -> 2.0", "image_workers: 4 -> 2"])
    assert changed(checkpoint={"every": 5, "keep": 9}) == ([], ["checkpoint.every: 1 -> 5"])
    assert changed(prompts_per_step=2) == (["prompts_per_step: 4 -> 2"], [])
    assert changed(seed=4)[0] == ["seed: 3 -> 4"]
    assert changed({"packages": {"torch": "2", "new": "1"}}) == (
        [],
        ["package torch: 1 -> 2", "package new: None -> 1"],
    )
    assert changed({"device": "cuda"}) == ([], ["device: cpu -> cuda"])
    environment["processes"] = 2
    before = changes.facts(recipe_of(world).model_dump(mode="json"), environment)
    assert changed({"processes": 1}) == ([], ["processes: 2 -> 1"])
    assert changed({"model_hash": "c" * 64})[0][0].startswith("base model: it changed")
    assert changed({"model_hash": None}) == ([], [])
    assert changed({"data_hash": {"d": "c" * 64}})[0][0].startswith("data 'd': its content changed")
    assert changed({"data_hash": {"d": "a" * 64, "e": "c" * 64}})[0][0].startswith("data 'e'")
    moved = {"source": "vlm_r1", "path": str(world / "elsewhere.jsonl")}
    assert changed({"data_hash": {"e": "a" * 64}}, data=[moved])[0] == []
    lora = [{"path": str(world / "model"), "train": [], "lora": {"rank": rank, "alpha": 4}} for rank in (2, 4)]
    before = changes.facts(recipe_of(world, model=lora[0]).model_dump(mode="json"), environment)
    with pytest.raises(ValueError, match=r"model\.lora\.rank: 2 -> 4: adapters stay as they began; undo this"):
        changed(model=lora[1])
    before = changes.facts(recipe_of(world).model_dump(mode="json"), environment)
    own = world / "rewards.py"
    was = own.read_text()
    own.write_text(was + "# edited\n")
    found = changed()
    own.write_text(was)
    assert found == ([], [f"{own}: the file was edited"])
    assert dump(recipe_of(world)), "the recipe is kept as data, which must stay JSON"
