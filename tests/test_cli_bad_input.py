"""User errors are one line on stderr and status 2, before any long work, and leave no files behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from training_runs import rl_recipe, write_world

from saccade import cli
from saccade.config import dump


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_world(tmp_path_factory.mktemp("world"))
    (folder / "rl.yaml").write_text(dump(rl_recipe(folder, num_steps=1)))
    return folder


def refused(capsys, *argv: object) -> str:
    """The one line on stderr; stdout must be empty."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in argv])
    captured = capsys.readouterr()
    assert ended.value.code == 2, captured.err
    assert captured.out == ""
    assert captured.err.startswith("saccade: ") and captured.err.count("\n") == 1, captured.err
    return captured.err


def rl(capsys, world: Path, tmp_path: Path, *overrides: str) -> str:
    message = refused(capsys, "rl", world / "rl.yaml", "--out", tmp_path / "run", *overrides)
    assert not (tmp_path / "run").exists(), "a rejected run leaves no files behind"
    return message


def rows(tmp_path: Path, *rows: dict[str, object]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return f"data.0.path={path}"


TURNS = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "3"}]


def test_a_gpu_that_is_not_there(world: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "model.device is 'cuda' but no GPU is visible" in rl(capsys, world, tmp_path, "model.device=cuda")
    line = refused(capsys, "predict", "--model", world / "model", "--device", "cuda", world / "0.png", "What?")
    assert "no GPU is visible" in line


@pytest.mark.parametrize("path", ["gone", "./gone", "/gone/away", "runs/gone/checkpoints/best"])
def test_a_model_directory_that_is_not_there(world: Path, tmp_path: Path, capsys, path: str) -> None:
    assert f"model.path '{path}': no config.json there" in rl(capsys, world, tmp_path, f"model.path={path}")
    assert "no config.json there" in refused(capsys, "predict", "--model", path, world / "0.png", "What?")


def test_a_model_of_an_unknown_family(world: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    assert "'bert'" in rl(capsys, world, tmp_path, f"model.path={tmp_path / 'model'}")


def test_a_wrong_key(world: Path, tmp_path: Path, capsys) -> None:
    line = rl(capsys, world, tmp_path, "loss.kl_coeff=0.1")
    assert line == "saccade: command line: unknown key 'loss.kl_coeff'; did you mean 'kl_coef'?\n"


def test_a_row_without_an_image(world: Path, tmp_path: Path, capsys) -> None:
    line = rl(capsys, world, tmp_path, rows(tmp_path, {"id": "a", "conversations": TURNS, "task": "count"}))
    assert "rows.jsonl:1: field 'image' is missing" in line


def test_an_image_that_is_not_there(world: Path, tmp_path: Path, capsys) -> None:
    row = {"id": "a", "image": "gone.png", "conversations": TURNS, "task": "count"}
    line = rl(capsys, world, tmp_path, rows(tmp_path, row))
    assert "rows.jsonl:1" in line and "gone.png: there is no such image file" in line


def test_an_image_that_does_not_open(world: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    row = {"id": "a", "image": "bad.png", "conversations": TURNS, "task": "count"}
    assert "bad.png: not an image that can be opened" in rl(capsys, world, tmp_path, rows(tmp_path, row))
    line = refused(capsys, "predict", "--model", world / "model", tmp_path / "bad.png", "What?")
    assert "not an image that can be opened" in line


def test_an_image_that_is_cut_off_is_refused_by_predict(world: Path, tmp_path: Path, capsys) -> None:
    whole = (world / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    line = refused(capsys, "predict", "--model", world / "model", tmp_path / "cut.png", "What?")
    assert "cut.png: the image is truncated or damaged" in line


def test_no_disk_space(world: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    nearly_full = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nearly_full)
    assert "free some space, lower checkpoint.keep" in rl(capsys, world, tmp_path)


def test_an_unknown_template_before_the_model_is_loaded(world: Path, capsys) -> None:
    line = refused(capsys, "predict", "--model", world / "model", "--template", "vlm", world / "0.png", "What?")
    assert "unknown template 'vlm'; did you mean 'vlm_r1'?" in line
    line = refused(capsys, "rl", world / "rl.yaml", "template=vlm", "--out", world / "run")
    assert line.startswith("saccade: unknown template 'vlm'")  # a mistake of the recipe and of no row


@pytest.mark.parametrize(("draw", "words"), [("gone/p.png", "there is no folder"), ("p.txt", "that of an image")])
def test_a_drawing_that_cannot_be_saved(world: Path, tmp_path: Path, capsys, draw: str, words: str) -> None:
    line = refused(capsys, "predict", "--model", world / "model", "--draw", tmp_path / draw, world / "0.png", "What?")
    assert words in line


def test_a_drawing_never_replaces_the_image_it_is_about(world: Path, capsys) -> None:
    before = (world / "0.png").read_bytes()
    argv = ("predict", "--model", world / "model", "--draw", world / "0.png", world / "0.png", "What?")
    assert "is an image of the question" in refused(capsys, *argv)
    assert (world / "0.png").read_bytes() == before


def test_an_image_whose_sides_differ_too_much(world: Path, tmp_path: Path, capsys) -> None:
    Image.new("RGB", (2, 900)).save(tmp_path / "thin.png")
    line = refused(capsys, "predict", "--model", world / "model", tmp_path / "thin.png", "What?")
    assert "aspect ratio" in line


def test_a_directory_without_a_run_is_not_resumed(tmp_path: Path, capsys) -> None:
    assert "holds no run to resume" in refused(capsys, "resume", tmp_path)
    (tmp_path / "config.yaml").write_text("kind: eval\n")
    assert "run the same command again" in refused(capsys, "resume", tmp_path)


def test_a_wrong_key_of_a_pretraining(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "unknown key 'sed'" in refused(capsys, "world", "pretrain", "world_base", "sed=1")
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_of_another_kind(world: Path, tmp_path: Path, capsys) -> None:
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit) as ended:
        cli.main(["sft", str(world / "rl.yaml"), "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert "'kind': got 'rl', expected 'sft'" in capsys.readouterr().err
