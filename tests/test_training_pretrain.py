"""Pre-training of the base: refused runs write nothing, and a killed run continues with the same numbers."""

from __future__ import annotations

import json
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_runs import base_recipe

from saccade.base import pretrain
from saccade.base.config import PretrainRecipe
from saccade.base.pretrain import train
from saccade.config import dump, load
from saccade.runs.streams import STREAMS
from saccade.training import checkpoint


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    nearly_full = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nearly_full)
    with pytest.raises(ValueError, match=r"need \d+\.\d [GM]B but 1\.0 MB are free"):
        train(load("world_base", PretrainRecipe, [f"out={tmp_path / 'base'}"]))
    assert not (tmp_path / "base").exists()


def test_the_directory_of_another_recipe_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("kind: pretrain")
    with pytest.raises(ValueError, match="another recipe"):
        train(load("world_base", PretrainRecipe, [f"out={tmp_path}"]))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("name", ["stage-1-see", "stage-2-sharpen-unfinished"])
@pytest.mark.parametrize("kind", ["file", "dead link"])
def test_something_else_where_a_stage_writes_is_named_before_the_first_step(
    tmp_path: Path, name: str, kind: str
) -> None:
    if kind == "file":
        (tmp_path / name).write_text("mine")
    else:
        (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(ValueError, match=rf"{name} is no directory, but stage '.*' writes one there; move it away"):
        train(base_recipe(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def rows(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "whole"
    assert train(base_recipe(out)) == out / "model"
    return out


def test_each_stage_trains_its_parts_and_starts_from_the_one_before(base: Path) -> None:
    names = ("start", "stage-1-see", "stage-2-sharpen", "stage-3-speak", "stage-4-both")
    weights = [load_file(base / name / "model.safetensors") for name in names]
    moved = [
        {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
        for before, after in pairwise(weights)
    ]
    assert moved == [{"visual"}, {"visual"}, {"model"}, {"visual", "model"}]
    heads = [torch.load(base / name / pretrain.STATE, weights_only=True)["heads"] for name in names]
    assert not heads[0]
    assert not torch.equal(heads[1]["x1_ones.weight"], heads[2]["x1_ones.weight"])
    assert torch.equal(heads[2]["x1_ones.weight"], heads[4]["x1_ones.weight"])
    assert (base / "model").resolve() == base / names[-1]
    found = rows(base)
    assert [(row["stage"], row["step"]) for row in found[:4]] == [
        ("see", 1),
        ("see", 2),
        ("sharpen", 1),
        ("sharpen", 2),
    ]
    spoken = [row["loss"] for row in found if row["stage"] == "speak"]
    assert spoken[-1] < spoken[0]


@pytest.mark.parametrize(("function", "call"), [("token_targets", 5), ("language_step", 6)])
def test_a_killed_run_resumes_with_the_same_numbers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int
) -> None:
    """Killed in the second stage of perception, and in the second of language, after a save."""
    own, calls = getattr(pretrain, function), [0]

    def dies(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return own(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, function, dies)
        with pytest.raises(KeyboardInterrupt):
            train(base_recipe(tmp_path))
    assert float(torch.tensor(1e-40) * 1.0) > 0.0  # the caller's arithmetic still has subnormal numbers
    assert len(rows(tmp_path)) < len(rows(base))
    again = load_file(train(base_recipe(tmp_path)) / "model.safetensors")
    assert rows(tmp_path) == rows(base)
    assert all(torch.equal(one, again[name]) for name, one in load_file(base / "model" / "model.safetensors").items())
    assert not list(tmp_path.glob("*unfinished"))


HEADS: dict[str, torch.Tensor] = {}
SIZES = dict.fromkeys(STREAMS, 0)
ODD_STATES: dict[str, tuple[Any, str]] = {
    "nothing": (None, "'NoneType' is missing or odd"),
    "a list": ([1], "'list' is missing or odd"),
    "no keys": ({}, "'heads' is missing or odd"),
    "heads of a number": ({"heads": 5, "sizes": SIZES}, "'heads' is missing or odd"),
    "a head of a number": ({"heads": {"a": 5}, "sizes": SIZES}, "'heads.a' is missing or odd"),
    "other heads": ({"heads": {"a": torch.zeros(3)}, "sizes": SIZES}, "Error.* in loading state_dict"),
    "a size of text": ({"heads": HEADS, "sizes": {**SIZES, STREAMS[0]: "x"}}, f"'sizes.{STREAMS[0]}' is missing"),
    "no size of a stream": ({"heads": HEADS, "sizes": {}}, "'sizes' is missing or odd"),
    "a size of another file": ({"heads": HEADS, "sizes": {**SIZES, "../own": 0}}, "'sizes' is missing or odd"),
}


@pytest.mark.parametrize("name", [*ODD_STATES, "a pipe"])
def test_a_stage_of_another_kind_is_one_line_and_no_other_file_is_touched(
    base: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(base / "start", tmp_path / "out" / "start")
    (tmp_path / "own").write_text("precious")
    path, (state, words) = tmp_path / "out" / "start" / pretrain.STATE, ODD_STATES.get(name, (None, "or no file"))
    path.unlink()
    (path.parent / pretrain.SEAL).unlink()  # as an earlier version left it
    if name == "a pipe":
        os.mkfifo(path)
    else:
        torch.save(state, path)
    with pytest.raises(
        ValueError, match=rf"{path}: the file is damaged \(.*{words}.*; remove {path.parent} and"
    ) as said:
        train(base_recipe(tmp_path / "out"))
    assert "\n" not in str(said.value) and (tmp_path / "own").read_text() == "precious"


def test_a_save_of_another_kind_is_one_line(tmp_path: Path) -> None:
    fresh = checkpoint.begin(tmp_path, 1)
    fresh.mkdir()
    (fresh / "weights").write_text("")
    checkpoint.publish(fresh, {"step": 1, "nonfinite_in_row": 0, "version": 1, "sizes": {**SIZES, "../own": 0}})
    with pytest.raises(ValueError, match=rf"step-000001/state.json: 'sizes' is missing or odd; remove {tmp_path}, to"):
        pretrain._saved_of(tmp_path)


def test_a_row_has_the_mean_of_the_steps_before_and_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed right after a save, at another step than a row; resumed, also from a save of an earlier version."""
    stage = base_recipe(tmp_path).stages[2].model_copy(update={"steps": 4, "rows": 1})
    few = {"log_every": 2, "save_every": 3, "stages": (stage,)}
    recipes = {name: base_recipe(tmp_path / name).model_copy(update=few) for name in ("whole", "killed", "earlier")}
    train(recipes["whole"])

    def dies(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "prune", dies)
        with pytest.raises(KeyboardInterrupt):
            train(recipes["killed"])
    shutil.copytree(tmp_path / "killed", tmp_path / "earlier")
    train(recipes["killed"])
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole") and "earlier version" not in caplog.text

    (save,) = (tmp_path / "earlier" / "stage-1-speak-unfinished" / "checkpoints").glob("step-*3")
    found = checkpoint.load(save)
    assert isinstance(found, checkpoint.Checkpoint)
    (save / checkpoint.STATE_FILE).unlink()
    checkpoint.seal(save, {key: value for key, value in found.state.items() if key not in ("files", "seen")})
    (tmp_path / "earlier" / "config.yaml").write_text(dump(recipes["earlier"]))
    train(recipes["earlier"])
    assert [row["step"] for row in rows(tmp_path / "earlier")] == [2, 4]
    assert "the next row of stage 'speak' has the means from step 4 on" in caplog.text


@pytest.mark.parametrize("name", ["model.safetensors", pretrain.STATE, pretrain.SEAL, "config.json"])
@pytest.mark.parametrize("stage", ["stage-2-sharpen", "stage-4-both"])
def test_a_finished_stage_with_a_changed_byte_is_refused_with_the_way_out(
    base: Path, tmp_path: Path, stage: str, name: str
) -> None:
    shutil.copytree(base, tmp_path / "base", symlinks=True)
    if stage == "stage-2-sharpen":
        shutil.rmtree(tmp_path / "base" / "stage-3-speak")
    (tmp_path / "base" / "config.yaml").write_text(dump(base_recipe(tmp_path / "base")))
    content = bytearray((tmp_path / "base" / stage / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "base" / stage / name).write_bytes(content)
    words = rf"{stage}: the stage is damaged \({name} .*\); remove .*{stage} and what came after it"
    with pytest.raises(ValueError, match=words):
        train(base_recipe(tmp_path / "base"))


@pytest.mark.parametrize("loss", ["perception", "language"])
@pytest.mark.parametrize(("steps", "lr"), [(1, 1e30), (9, 1e12)])
def test_a_stage_that_diverges_is_not_finished_and_is_named(tmp_path: Path, loss: str, steps: int, lr: float) -> None:
    recipe = base_recipe(tmp_path / "base")
    stage = {**recipe.stages[0 if loss == "perception" else 2].model_dump(), "name": "wild", "steps": steps, "lr": lr}
    recipe = PretrainRecipe.model_validate({**recipe.model_dump(), "stages": [{**stage, "warmup": 1, "decay": 0.0}]})
    words = r"base: stage 'wild': .*; lower its lr, and choose another 'out' or remove that directory"
    for _ in range(2):
        with pytest.raises(ValueError, match=words):
            train(recipe)
        assert not (tmp_path / "base" / "stage-1-wild").exists()


def test_an_empty_folder_is_no_finished_stage(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base", symlinks=True)
    recipe = base_recipe(tmp_path / "base")
    (tmp_path / "base" / "config.yaml").write_text(dump(recipe))
    shutil.rmtree(tmp_path / "base" / "stage-4-both")
    (tmp_path / "base" / "stage-4-both").mkdir()
    with pytest.raises(ValueError, match=r"4-both/stage\.pt: the file is damaged \(it is missing, or no file"):
        train(recipe)


def test_a_run_that_began_while_the_model_was_loaded_keeps_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*given: Any) -> Any:
        (tmp_path / "config.yaml").write_text("kind: coldstart\n")
        return build(*given)

    build = pretrain.build
    monkeypatch.setattr(pretrain, "build", slow)
    with pytest.raises(ValueError, match="holds a run of kind 'coldstart'"):
        train(base_recipe(tmp_path))
    assert (tmp_path / "config.yaml").read_text() == "kind: coldstart\n"


def test_a_damaged_save_of_an_unfinished_stage_is_passed_over_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        fresh = checkpoint.begin(tmp_path, step)
        fresh.mkdir()
        (fresh / "weights").write_text("whole")
        checkpoint.publish(fresh, {"step": step, "nonfinite_in_row": 0, "version": 1, "sizes": SIZES})
    (tmp_path / "checkpoints" / "step-000002" / "weights").write_text("whale")
    assert (found := pretrain._saved_of(tmp_path)) and found.step == 1
    assert "step-000002 is damaged and not used: weights was changed" in caplog.text
