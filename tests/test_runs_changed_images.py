"""Images that are replaced under their names between a checkpoint and its resume are named like other changed data."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from copy_engine import CopyEngine
from PIL import Image
from training_runs import rl_recipe, write_world

from saccade.data.config import DataConfig
from saccade.data.sources import open_source
from saccade.models.policy import load_policy
from saccade.runs.environment import hash_contents, hash_images, hash_model, numbered
from saccade.training import changes, rl, sft
from saccade.training.config import SFTRecipe
from saccade.training.examples import Example
from saccade.training.resuming import Resume
from saccade.training.stored_groups import same_samples
from saccade.types import Sample, Turn


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "world")


def painted(path: Path) -> None:
    """Another picture of the same size in pixels and bytes."""
    size, before = Image.open(path).size, path.stat().st_size
    Image.new("RGB", size).save(path, format="PNG")
    content = path.read_bytes()
    path.write_bytes(content + bytes(before - len(content)))


CHANGES: dict[str, Callable[[Path], Any]] = {
    "repainted, same size": lambda world: painted(world / "3.png"),
    "larger": lambda world: Image.new("RGB", (84, 84)).save(world / "3.png"),
    "two swapped": lambda world: [
        (world / "3.png").rename(world / "x"),
        (world / "1.png").rename(world / "3.png"),
        (world / "x").rename(world / "1.png"),
    ],
    "removed": lambda world: (world / "3.png").unlink(),
    "a pipe": lambda world: [(world / "3.png").unlink(), os.mkfifo(world / "3.png")],
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_replaced_image_changes_the_hash_of_its_source_and_a_copy_does_not(world: Path, name: str) -> None:
    def found(folder: Path) -> dict[str, Any]:
        return hash_images([*(str(folder / f"{i}.png") for i in range(6)), str(folder / "0.png"), b"in a table"])

    before = found(world)
    assert before["count"] == 7
    copy = shutil.copytree(world, world.with_name("copy"), copy_function=shutil.copyfile)
    os.utime(copy / "2.png", (0, 0))
    assert found(copy)["hash"] == before["hash"]
    CHANGES[name](world)
    assert found(world)["hash"] != before["hash"]


def sft_recipe(world: Path) -> SFTRecipe:
    rows = [{"image": f"{i}.png", "task": "count", "question": f"How many? {i}", "response": str(i)} for i in range(6)]
    (world / "replies.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    model, optim = {"path": str(world / "model"), "device": "cpu"}, {"lr": 1e-3}
    data, every = [{"path": str(world / "replies.jsonl")}], {"every": 1}
    base = {"model": model, "data": data, "prompts_per_step": 2, "num_steps": 2, "checkpoint": every, "optim": optim}
    return SFTRecipe.model_validate(base)


@pytest.mark.parametrize("kind", ["rl", "sft"])
def test_a_resume_names_the_source_and_the_image_that_was_written_last(world: Path, tmp_path: Path, kind: str) -> None:
    recipe: Any = rl_recipe(world, num_steps=2) if kind == "rl" else sft_recipe(world)
    train: Any = rl.train if kind == "rl" else sft.train
    train(recipe, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["images"]
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000002")
    painted(world / "3.png")
    words = r"its images changed \(6 of them, the last one written is \S*3\.png at \d{4}-.*--accept-changes"
    with pytest.raises(ValueError, match=f"since checkpoint step-000001 .*{words}"):
        train(recipe, tmp_path / "run", resume=True)
    assert train(recipe, tmp_path / "run", resume=Resume(accept_changes=True)).step == 2


@pytest.mark.parametrize("kept", ["replay", "ahead"])
def test_kept_replies_to_rows_that_changed_places_are_dropped_aloud_once_that_is_accepted(
    world: Path, tmp_path: Path, kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, out = [{"source": "vlm_r1", "path": str(world / "data.jsonl"), "on_bad": "skip"}], tmp_path / "run"
    update: dict[str, Any] = {"replay": {"size": 99}} if kept == "replay" else {}
    recipe = rl_recipe(world, data=data, num_steps=3, update=update)
    if kept == "ahead":
        recipe = recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"staleness": 1})})

    def train(**more: Any) -> Any:
        engine = CopyEngine(load_policy(recipe.model)) if kept == "ahead" else None
        return rl.train(recipe, out, engine=engine, **more)

    train()
    (world / "3.png").unlink()
    with pytest.raises(ValueError, match=r"saccade resume .* --accept-changes"):
        train(resume=Resume("step-2"))
    assert train(resume=Resume("step-2", accept_changes=True)).step == 3
    words = r"\d+ of \d+ replies to replay are dropped" if kept == "replay" else "sampled ahead are dropped"
    assert re.search(words, caplog.text)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]


def test_kept_replies_to_another_sample_are_refused_with_the_way_out() -> None:
    prompt: Any = SimpleNamespace(name="row6")
    with pytest.raises(ValueError, match=r"replies to sample 'row4', but the data gives 'row6' .* --accept-changes"):
        same_samples([{"sample": "row4"}], [prompt], accepted=False)


def of_yolo(folder: Path) -> str:
    """The hash of a set whose images, labels and settings are each somewhere else, with a run in its folder."""
    for name in ("store/labels", "store/images", "set/conf"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (60, 60)).save(folder / "store/images/a.png")
    for name in ("labels", "images"):
        (folder / "set" / name).symlink_to(folder / "store" / name)
    (folder / "set/conf/data.yaml").write_text("path: ..\ntrain: images\nnames: [cup, pen]")
    (folder / "store/labels/a.txt").write_text("0 0.5 0.5 0.2 0.4")
    return hash_of(folder)


def hash_of(folder: Path) -> str:
    entry = {"source": "yolo", "path": str(folder / "set/conf/data.yaml"), "data_root": str(folder), "task": "detect"}
    source = open_source(DataConfig.model_validate(entry | {"image_folder": str(folder)}))
    return hash_contents(sample.content for sample in source)


def test_data_counts_by_what_its_rows_say_wherever_its_files_are(tmp_path: Path) -> None:
    before = of_yolo(tmp_path / "a")
    assert of_yolo(tmp_path / "b") == before
    (tmp_path / "a/set/conf/run.jsonl").write_text("of a run")
    os.mkfifo(tmp_path / "a/set/pipe")
    assert hash_of(tmp_path / "a") == before
    (tmp_path / "a/store/labels/a.txt").write_text("1 0.5 0.5 0.2 0.4")
    assert hash_of(tmp_path / "a") != before


def test_each_part_of_a_row_but_its_place_counts() -> None:
    row = Sample("1", ("a.png",), "How many?", 3, "count", {"place": "a:1", "source": "a", "system": "Be brief."})
    example = Example("1", "How many?", ("a.png",), "3", before=(Turn("system", "Be brief."),), place="a:1")
    for one, same, others in (
        (row, {"images": ("b.png",), "meta": {**row.meta, "place": "b:1", "source": "b"}}, {"answer": "3", "id": "2"}),
        (example, {"images": ("b.png",), "place": "b:1"}, {"reply": "4", "before": (), "gold": row}),
    ):
        assert hash_contents([replace(one, **same).content]) == hash_contents([one.content])
        others |= {"images": (), "meta": {"system": ""}, "question": "Why?", "prompt": "Why?", "task": "number"}
        for key in others.keys() & {field.name for field in fields(one)}:
            assert hash_contents([replace(one, **{key: others[key]}).content]) != hash_contents([one.content]), key


def test_names_of_sources_differ() -> None:
    assert numbered(["train", "world", "train", "train"]) == ["train", "world", "train (2)", "train (3)"]
    assert numbered(["a", "a", "a (2)", "a (2)", "a"]) == ["a", "a (2)", "a (2) (2)", "a (2) (3)", "a (3)"]


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/x.jinja", "spiece.model", "a.bin"])
def test_each_file_that_changes_what_a_model_does_counts(name: str, tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "config.json").write_text("{}")
    found = [hash_model(str(tmp_path))]
    for text in ("before", "after"):
        (tmp_path / name).write_text(text)
        found.append(hash_model(str(tmp_path)))
    (tmp_path / "README.md").write_text("A model.")
    assert len(set(found)) == 3 and hash_model(str(tmp_path)) == found[-1]


def test_what_an_own_reward_imports_from_beside_it_is_named_when_it_is_edited(tmp_path: Path) -> None:
    files = {
        "own.py": "import json, part\nfrom pack import one\n",
        "part.py": f"import own, missing.thing, {'x' * 999}\n",
        "pack/__init__.py": "from . import two\n",
        "pack/one.py": "from .two import *\nimport part",
        "pack/two.py": "def broken(:",
        "other.py": "",
    }
    (tmp_path / "pack").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    facts = lambda: changes.facts({"name": f"{tmp_path}/own.py:score"}, {})["code_hash"]  # noqa: E731
    before = facts()
    for name in files:
        (tmp_path / name).write_text("edited")
        now = facts()
        (tmp_path / name).write_text(files[name])
        named = {file for file, was in before.items() if now.get(file, "") != was}
        assert (str(tmp_path / name) in named) == (name != "other.py"), name
