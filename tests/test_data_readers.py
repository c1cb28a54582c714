"""Readers: rows of each format become samples, and an invalid row is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from saccade.config import Config, ConfigError, dump, load
from saccade.data import READERS, DataConfig, json_stream, open_source
from saccade.data.sources import items


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (60, 40), "white").save(tmp_path / "a.png")
    Image.new("RGB", (30, 20), "white").save(tmp_path / "b.png")
    (tmp_path / "text.png").write_text("no image")
    return tmp_path


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def turns(question: str, answer: Any, **more: Any) -> dict[str, Any]:
    said = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": 7, "image": "a.png", "conversations": said, **more}


def math(**more: Any) -> dict[str, Any]:
    return {"id": "1", "question": "How many?\n<image1>", "options": [], "answer": "3", "image": "a.png"} | more


def read(path: Path, source: str, **more: Any) -> list:
    return list(open_source(DataConfig(source=source, path=path, **more)))


def test_a_box_of_vlm_r1_is_a_referring_sample(folder: Path) -> None:
    (sample,) = read(write(folder, turns("<image>Where is the dog?", [1, 2, 30, 40])), "vlm_r1")
    assert (sample.id, sample.task, sample.answer) == ("7", "refer", (1.0, 2.0, 30.0, 40.0))
    assert (sample.question, sample.images) == ("<image>Where is the dog?", (str(folder / "a.png"),))
    assert sample.meta["source"] == "train"


@pytest.mark.parametrize(
    ("method", "said", "task", "answer"),
    [
        ("mcq", "<answer> B </answer>", "choice", "B"),
        ("yes_no", "yes", "yes_no", "yes"),
        ("math", "<think>x</think><answer>\\frac{1}{2}</answer>", "free_form", "\\frac{1}{2}"),
        ("numeric", 12, "free_form", 12),
        ("default", " a red bus ", "free_form", "a red bus"),
        ("odLength", "None", "detect", []),
        (
            "map",
            '```json\n[{"bbox_2d": [0, 1, 2, 3], "label": "cat"}]\n```',
            "detect",
            [{"bbox_2d": [0.0, 1.0, 2.0, 3.0], "label": "cat"}],
        ),
    ],
)
def test_the_reward_method_of_vlm_r1_determines_the_task(
    folder: Path, method: str, said: Any, task: str, answer: Any
) -> None:
    (sample,) = read(write(folder, turns("What?", said, accu_reward_method=method)), "vlm_r1")
    assert (sample.task, sample.answer) == (task, answer)


def test_columns_of_our_own_export_take_precedence(folder: Path) -> None:
    row = turns("<image>How many?", "<think>..</think><answer>three</answer>")
    (sample,) = read(write(folder, row | {"task": "count", "answer": 3, "meta": {"split": "test"}}), "vlm_r1")
    assert (sample.task, sample.answer, sample.meta["split"]) == ("count", 3, "test")


def test_several_images_keep_their_order_and_markers(folder: Path) -> None:
    (sample,) = read(write(folder, turns("From <image> to <image>?", "x", image=["a.png", "b.png"])), "vlm_r1")
    assert sample.images == (str(folder / "a.png"), str(folder / "b.png"))
    assert sample.question.count("<image>") == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "not JSON"),
        ("[1]", "got a JSON list, expected an object"),
        ({"id": 1}, "field 'image' is missing; the row has id"),
        (turns("?", "x", image="gone.png"), r"gone\.png: there is no such image file"),
        (turns("?", "x", image="text.png"), r"text\.png: not an image"),
        (turns("?", [40, 10, 20, 30]), r"answer box \[40, 10, 20, 30\] has x1 > x2 or y1 > y2; expected xyxy"),
        (turns("?", [0, 0, 1e308, 1e308]), r"\[0, 0, 1e\+308, 1e\+308\] is not a box"),
        (turns("?", [1, 2, 3]), r"\[1, 2, 3\] is not a box; expected \[x1, y1, x2, y2\]"),
        (turns("?", " "), "the answer is empty"),
        (turns("<image><image>?", "x"), "has 2 <image> markers for 1 images; expected 0 or 1"),
        (turns("<image>?", "x", image=""), "has 1 <image> markers for 0 images; expected none, or an image"),
        (turns("<image>?", "x", image=None), "has 1 <image> markers for 0 images; expected none, or an image"),
        (turns("?", "x", accu_reward_method="llm"), "accu_reward_method 'llm' has no matching task"),
        (turns("?", "[{]", accu_reward_method="map"), "is not a JSON list"),
        ({"image": "a.png", "conversations": []}, "expected a question and an answer"),
    ],
)
def test_an_invalid_row_is_named_with_file_and_line_or_skipped_and_counted(
    folder: Path, row: Any, message: str
) -> None:
    path = write(folder, turns("?", "x"), "", row, turns("?", "y"))
    with pytest.raises(ValueError, match=r"^train\.jsonl:3: .*" + message):
        read(path, "vlm_r1")
    source = open_source(DataConfig(source="vlm_r1", path=path, on_bad="skip"))
    assert [sample.answer for sample in source] == ["x", "y"]
    assert source.skipped == 1


def test_one_marker_of_math_vision_stays_in_place(folder: Path) -> None:
    (sample,) = read(write(folder, math(answer="11 ")), "math_vision")
    assert (sample.question, sample.answer, sample.task) == ("How many?\n<image>", "11", "free_form")


def test_several_markers_of_one_composite_image_become_text(folder: Path) -> None:
    rows = [math(question="From <image1> to <image2>?"), math(options=["<image2>", "<image3>"], answer="B")]
    first, second = read(write(folder, *rows), "math_vision")
    assert first.question == "From (picture 1) to (picture 2)?"
    assert second.meta["options"] == ["(picture 2)", "(picture 3)"]
    assert "<image" not in second.question


def test_letters_are_choices_whether_their_options_are_texts_letters_or_in_the_image(folder: Path) -> None:
    rows = [math(options=["1", "2"], answer="B"), math(options=["A", "B", "F"], answer="C"), math(answer="C")]
    samples = read(write(folder, *rows), "math_vision")
    assert [s.task for s in samples] == ["choice"] * 3
    assert [s.meta["options"] for s in samples] == [["1", "2"], ["A", "B", "F"], ["A", "B", "C", "D", "E"]]
    with pytest.raises(ValueError, match=r"train\.jsonl:1: answer 'C' names none of 2 options"):
        read(write(folder, math(options=["1", "2"], answer="C")), "math_vision")


def test_all_of_math_vision_is_read(real_data: Path) -> None:
    train = read(real_data / "math_vision/train.jsonl", "math_vision")
    test = read(real_data / "math_vision/testmini.jsonl", "math_vision")
    assert (len(train), len(test)) == (360, 200)
    assert sum(s.task == "choice" for s in train) == 186
    assert {s.question.count("<image>") for s in train + test} == {0, 1}
    assert not any("<image1" in s.question for s in train + test)
    assert not {s.id for s in train} & {s.id for s in test}


def test_a_gold_of_several_letters_is_not_cut_to_the_first(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    Image.new("RGB", (56, 56)).save(tmp_path / "3/img_diagram.png")
    row = {"compact_choices": ["1", "2", "3", "4"], "compact_text": "Find x.", "answer": "BC"}
    (tmp_path / "3/data.json").write_text(json.dumps(row))
    ((_, found),) = items(DataConfig(source="geometry3k", path=tmp_path))
    assert "answer 'BC' names several options, expected one" in str(found)


def test_all_of_geometry3k_is_read_as_choices_or_free_form(real_data: Path) -> None:
    choices = read(real_data / "geometry3k", "geometry3k")
    free = read(real_data / "geometry3k", "geometry3k", task="free_form")
    assert len(choices) == len(free) == 10
    for choice, open_ in zip(choices, free, strict=True):
        assert choice.meta["options"]["ABCD".index(choice.answer)] == open_.answer
    assert [s.id for s in choices] == sorted((s.id for s in choices), key=lambda i: int(i.split("/")[1]))


@pytest.mark.parametrize("source", READERS)
def test_missing_data_is_named(source: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such"):
        read(tmp_path / "gone", source)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no usable row"):
        read(write(tmp_path), "vlm_r1")


class Recipe(Config):
    data: tuple[DataConfig, ...]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{source: vlmr1, path: a}", "source is 'vlmr1', expected one of vlm_r1"),
        ("{source: vlm_r1}", "source 'vlm_r1' needs 'path'"),
        ("{source: world}", "source 'world' needs 'task'"),
        ("{source: world, task: count, path: a}", "'path' is not an option of source 'world'; remove it"),
        ("{source: vlm_r1, path: a, seed: 3}", "'seed' is not an option of source 'vlm_r1'; remove it"),
        ("{source: world, task: count, weight: 0}", "'data.0.weight': got 0, expected greater than 0"),
    ],
)
def test_an_entry_whose_keys_contradict_its_source_is_refused(tmp_path: Path, entry: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(f"data:\n  - {entry}\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "r.yaml", Recipe)
    assert str(caught.value).startswith(f"{tmp_path}/r.yaml:2: ")
    assert message in str(caught.value)


def test_a_resolved_entry_is_accepted_again(tmp_path: Path) -> None:
    files, world = DataConfig(source="vlm_r1", path=Path("a")), DataConfig(source="world", task="count", seed=2)
    recipe = Recipe(data=(files, world))
    (tmp_path / "r.yaml").write_text(dump(recipe))
    assert load(tmp_path / "r.yaml", Recipe) == recipe


def test_the_world_is_an_infinite_source_unless_limited() -> None:
    endless = open_source(DataConfig(source="world", task="count", seed=3))
    assert endless[5].question == open_source(DataConfig(source="world", task="count", seed=3))[5].question
    assert endless[5].meta["source"] == "world/train/count"
    with pytest.raises(TypeError, match="has no end"):
        len(endless)
    limited = open_source(DataConfig(source="world", task="count", limit=4, name="mine"))
    assert len(list(limited)) == 4
    with pytest.raises(IndexError):
        limited[4]


def test_a_wrong_world_task_is_reported_when_the_source_is_opened() -> None:
    with pytest.raises(ValueError, match="unknown task 'colour'"):
        open_source(DataConfig(source="world", task="colour"))


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_a_row_with_more_values_than_memory_has_room_for_is_skipped_by_name(
    folder: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, most in (("MOST_ELEMENTS", 500), ("WINDOW", 1 << 8)):
        monkeypatch.setattr(json_stream, name, most, raising=False)
    path = write(folder, math(), math(id="2", unread=[{"": 0}] * 1_000), math(id="3"))
    if suffix == "json":
        path = path.rename(folder / "train.json")
        path.write_text(f"[{','.join(path.read_text().splitlines())}]")
    with pytest.raises(ValueError, match=r"more than 500 brackets and commas in one row"):
        read(path, "math_vision")
    assert [sample.id for sample in read(path, "math_vision", on_bad="skip")] == ["1", "3"]
