"""Formats: the samples of their rows, the supported files, and errors with file and line."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from property_search import examples

from saccade.data import DataConfig, open_source
from saccade.data.images import image_sha
from saccade.data.json_stream import elements
from saccade.data.sources import items
from saccade.types import Sample


def png(color: str = "white", size: tuple[int, int] = (60, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, color in (("a.png", "white"), ("b.png", "red")):
        (tmp_path / name).write_bytes(png(color))
    return tmp_path


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, indent=1))
    return path


def parquet(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def read(path: Path, source: str, **more: Any) -> list[Sample]:
    return list(open_source(DataConfig(source=source, path=path, **more)))


# --------------------------------------------------------------------------------------------------------------- vlm_r1


def rec(**more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>Where is it?"}, {"from": "gpt", "value": [1, 2, 30, 40]}]
    return {"id": 1, "image": "a.png", "conversations": turns} | more


def test_the_reward_method_of_a_row_is_kept_for_routing_rewards(folder: Path) -> None:
    turns = [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "B"}]
    rows = [rec(), rec(conversations=turns, accu_reward_method="mcq")]
    plain, chosen = read(jsonl(folder / "t.jsonl", *rows), "vlm_r1")
    assert "accu_reward_method" not in plain.meta
    assert chosen.meta["accu_reward_method"] == "mcq"
    judged = rec(conversations=turns, accu_reward_method="llm")
    (sample,) = read(jsonl(folder / "j.jsonl", judged), "vlm_r1", task="free_form")
    assert (sample.task, sample.meta["accu_reward_method"]) == ("free_form", "llm")


def test_a_text_only_row_has_no_images(folder: Path) -> None:
    turns = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
    for nothing in ([], None):
        (sample,) = read(jsonl(folder / "t.jsonl", {"image": nothing, "conversations": turns}), "vlm_r1")
        assert sample.images == ()
    with pytest.raises(ValueError, match=r"'image' is missing; .*for a text-only row set \"image\": \[\]"):
        read(jsonl(folder / "t.jsonl", {"conversations": turns}), "vlm_r1")
    assert read(jsonl(folder / "t.jsonl", {"conversations": turns}), "llava")[0].images == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": "a.mp4"}, "the row has field 'video'; videos are not supported"),
        ({"conversations": [{"value": "<video>What?"}, {"value": "x"}]}, "has a <video> marker"),
        ({"image": None}, "has 1 <image> markers for 0 images"),
        (
            {"conversations": [{"value": "<image>?"}, {"value": "x"}, {"value": "And <image>?"}, {"value": "y"}]},
            "the conversation has 2 <image> markers for 1 images",
        ),
        ({"conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}]}, "the roles are"),
        (
            {"conversations": [{"from": "tool", "value": "x"}]},
            "got a turn of 'tool' with tools",
        ),
        ({"tools": '[{"name": "crop"}]'}, "the row has field 'tools'; tools are not supported"),
        ({"audio": "a.wav"}, "the row has field 'audio'; audio is not supported"),
        ({"conversations": [{"value": "<audio>What?"}, {"value": "x"}]}, "has a <audio> marker"),
        ({"conversations": [{"value": "?"}, {"value": "x"}, {"value": "<video>?"}]}, "has a <video> marker"),
        ({"conversations": [{"value": [{"type": "file", "file": 1}]}, {"value": "x"}]}, "a part of type 'file'"),
        ({"conversations": [{"value": "?"}, {"value": [1, 2, float("nan"), 4]}]}, "is not a box"),
    ],
)
def test_videos_and_later_images_are_refused_by_file_and_line(folder: Path, change: Any, message: str) -> None:
    path = jsonl(folder / "t.jsonl", rec(), rec(**change))
    with pytest.raises(ValueError, match=rf"^t\.jsonl:2: .*{message}"):
        read(path, "vlm_r1")


# ---------------------------------------------------------------------------------------------------------------- llava

LLAVA_COT = {
    "id": "chart/1",
    "image": "a.png",
    "conversations": [
        {"from": "human", "value": "<image>Which? A. red B. blue"},
        {"from": "gpt", "value": "<think>I look.</think><answer> Final Answer: B </answer>"},
    ],
}
MULBERRY = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<image>How many?"},
        {"role": "assistant", "content": "### Think\nTwo.\n### The final answer is: 2"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ],
    "images": ["a.png"],
}


def test_both_schemas_of_vision_r1_become_questions_with_their_replies(folder: Path) -> None:
    first, second = read(as_json(folder / "cold.json", [LLAVA_COT, MULBERRY]), "llava")
    assert (first.id, first.task, first.answer, first.meta["options"]) == ("chart/1", "choice", "B", ["red", "blue"])
    assert first.meta["response"] == LLAVA_COT["conversations"][1]["value"]
    assert (second.task, second.answer) == ("free_form", "2")
    assert second.meta["system"] == "Be brief."
    assert [(turn["role"], turn["content"]) for turn in second.meta["turns"]] == [
        ("user", "Sure?"),
        ("assistant", "Yes."),
    ]


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("<think>a</think>\n<answer>Final Answer: 12</answer>", "12"),
        ("<SUMMARY>x</SUMMARY><CONCLUSION> red </CONCLUSION>", "red"),
        ("steps\nFinal Answer: 5\n", "5"),
        ("<answer>1</answer> no, <answer>2</answer>", "2"),
        ("just words", "just words"),
    ],
)
def test_the_gold_of_a_written_reply_is_its_answer(folder: Path, reply: str, answer: str) -> None:
    row = {"image": "a.png", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": reply}]}
    assert read(jsonl(folder / "t.jsonl", row), "llava")[0].answer == answer


def test_parts_of_a_chat_message_become_markers_and_text(folder: Path) -> None:
    asked = [{"type": "image"}, {"type": "text", "text": "How many?"}]
    row = {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": "3"}], "images": "a.png"}
    assert read(jsonl(folder / "t.jsonl", row), "llava")[0].question == "<image>How many?"


# -------------------------------------------------------------------------------------------------------------- easy_r1


def test_easy_r1_in_parquet_has_its_images_as_bytes(folder: Path) -> None:
    picture = {"bytes": png("blue"), "path": "somewhere/else.png"}
    rows = [
        {"images": [picture], "problem": "<image>Find x.", "answer": "\\frac{1}{2}", "id": "7"},
        {"images": [picture], "problem": "<image>Which?\nA. 1\nB. 2", "answer": " B ", "id": "8"},
        {"images": [picture], "problem": "From <image1> to <image2>?", "answer": "3", "id": "9"},
    ]
    first, second, third = read(parquet(folder / "train.parquet", *rows), "easy_r1")
    assert image_sha(first.images[0]) == image_sha(png("blue"))
    assert (first.id, first.task, first.answer) == ("7", "free_form", "\\frac{1}{2}")
    assert (second.task, second.answer, second.meta["options"]) == ("choice", "B", ["1", "2"])
    assert third.question == "From (picture 1) to (picture 2)?"


def test_choices_of_easy_r1_are_used_if_the_task_is_choice(folder: Path) -> None:
    row = {"image": "a.png", "problem": "Find x.", "answer": "4", "choices": ["3", "4"], "ground_truth": "B"}
    path = jsonl(folder / "t.jsonl", row)
    assert read(path, "easy_r1")[0].answer == "4"
    (sample,) = read(path, "easy_r1", task="choice")
    assert (sample.answer, sample.meta["options"]) == ("B", ["3", "4"])


def test_a_solution_in_an_answer_tag_is_the_gold_too(folder: Path) -> None:
    row = {"image": "a.png", "problem": "Find x.", "solution": "<answer> 145° </answer>"}
    assert read(jsonl(folder / "t.jsonl", row), "easy_r1")[0].answer == "145°"


# ----------------------------------------------------------------------------------------------------------------- coco


def instances(**more: Any) -> dict[str, Any]:
    return {
        "info": {"year": 2017},
        "images": [{"id": k, "file_name": name} for k, name in enumerate(["a.png", "b.png", "a.png"], 1)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 20], "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [5, 5, 5, 5], "iscrowd": 0},
            {"id": 3, "image_id": 1, "category_id": 2, "bbox": [9, 9, 5, 5], "iscrowd": 0},
            {"id": 4, "image_id": 2, "category_id": 3, "bbox": [0, 0, 60, 40], "iscrowd": 1},
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(["cat", "dog", "cow", "owl"], 1)],
    } | more


def test_coco_becomes_detection_with_labels_that_are_absent(folder: Path) -> None:
    path = as_json(folder / "instances.json", instances())
    first, second, third = read(path, "coco")
    assert [entry["label"] for entry in first.answer] == ["cat", "dog", "dog"]
    assert first.answer[0]["bbox_2d"] == [1.0, 2.0, 11.0, 22.0]
    assert set(first.meta["absent"]) <= {"cow", "owl"}
    assert first.meta["absent"]
    assert all(label in first.question for label in first.meta["labels"])
    assert "cow" not in second.question  # a crowd is not annotated exhaustively
    assert second.answer == third.answer == []
    assert [s.question for s in read(path, "coco")] == [s.question for s in read(path, "coco")]
    others = [s.question for seed in range(1, 9) for s in read(path, "coco", seed=seed)]
    assert len(set(others)) > 3
    (only,) = read(path, "coco", negatives=0)
    assert only.meta["absent"] == []


def test_coco_becomes_referring_expressions_where_a_label_has_one_box(folder: Path) -> None:
    (sample,) = read(as_json(folder / "instances.json", instances()), "coco", task="refer")
    assert (sample.task, sample.answer, sample.meta["label"]) == ("refer", (1.0, 2.0, 11.0, 22.0), "cat")
    assert "describes: cat." in sample.question


def test_known_negatives_of_a_file_take_precedence(folder: Path) -> None:
    images = [
        {"id": 1, "file_name": "a.png", "neg_category_ids": [4], "not_exhaustive_category_ids": [2]},
        {"id": 2, "file_name": "b.png", "text": ["a red bus"], "neg_text": ["a blue bus"]},
    ]
    first, second = read(
        as_json(
            folder / "instances.json",
            instances(
                images=images,
                annotations=[
                    {"image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 20]},
                    {"image_id": 1, "category_id": 2, "bbox": [1, 2, 10, 20]},
                ],
            ),
        ),
        "coco",
    )
    assert (first.meta["labels"], first.meta["absent"]) == (["cat", "owl"], ["owl"])
    assert (second.meta["labels"], second.meta["absent"]) == (["a blue bus", "a red bus"], ["a blue bus"])


@pytest.mark.parametrize(
    ("key", "entry", "message"),
    [
        ("annotations", {"image_id": 1, "category_id": 1, "bbox": [1, 2, -3, 4]}, "negative width or height"),
        ("annotations", {"image_id": 1, "category_id": 9, "bbox": [1, 2, 3, 4]}, "category_id 9 is not a category"),
        ("annotations", {"image_id": 99, "category_id": 1, "bbox": [1, 2, 3, 4]}, "image_id 99 is not an image"),
        ("annotations", {"category_id": 1}, "field 'image_id' is missing"),
        ("images", {"id": 7, "file_name": "gone.png"}, "there is no such image file"),
        ("categories", 3, "'categories' has 3, expected objects"),
    ],
)
def test_invalid_entries_of_coco_are_named_by_line(folder: Path, key: str, entry: Any, message: str) -> None:
    whole = instances()
    whole[key].append(entry)
    path = as_json(folder / "instances.json", whole)
    (line,) = [line for _, line, value in elements(path) if value == entry]
    assert path.read_text().splitlines()[line - 1].strip() == ("3" if entry == 3 else "{")
    with pytest.raises(ValueError, match=rf"^instances\.json:{line}: .*{message}"):
        read(path, "coco")


@pytest.mark.parametrize("key", ["images", "annotations"])
@pytest.mark.parametrize("fault", ["quote", "brace", "twice"])
def test_an_entry_of_coco_that_is_not_json_costs_its_image(folder: Path, key: str, fault: str) -> None:
    entries = {
        "images": [{"id": i, "file_name": "a.png"} for i in range(4)],
        "annotations": [{"id": i, "image_id": i, "category_id": 0, "bbox": [1, 1, 5, 5]} for i in range(4)],
        "categories": [{"id": i, "name": f"c{i}"} for i in range(2)],
    }
    lists = {name: list(map(json.dumps, some)) for name, some in entries.items()}
    good = lists[key][1]
    lists[key][1] = {"quote": good.replace('"id"', '"id'), "brace": good[:-1], "twice": good[:-1] + ', "id": 7}'}[fault]
    text = ",\n".join(f'"{name}": [\n' + ",\n".join(some) + "\n]" for name, some in lists.items())
    (folder / "c.json").write_text(f"{{{text}}}")
    found = [item for _, item in items(DataConfig(source="coco", path=folder / "c.json"))]
    assert [item.id for item in found if isinstance(item, Sample)] == ["0", "2", "3"]
    assert "JSON" in str(found[0])
    (folder / "c.json").write_text(f"{{{text}}}"[: text.index('"categories"') - 60])
    with pytest.raises(ValueError, match=r"c\.json:1[0-9]: .*(truncated|not read).*mend the file"):
        list(items(DataConfig(source="coco", path=folder / "c.json")))


def test_a_file_without_annotations_is_not_a_coco_file(folder: Path) -> None:
    with pytest.raises(ValueError, match="annotations and categories: annotations is missing or empty"):
        read(as_json(folder / "x.json", instances() | {"annotations": []}), "coco")
    with pytest.raises(ValueError, match="cannot be made of COCO instances"):
        read(as_json(folder / "y.json", instances()), "coco", task="yes_no")


# -------------------------------------------------------------------------------------------------------------- refcoco


def test_the_three_schemas_of_refcoco_are_distinguished_by_their_fields(folder: Path) -> None:
    ours = {"image": "a.png", "problem": "Find the {red} cup.", "normal_caption": "red cup", "solution": [1, 2, 30, 40]}
    qwen = {"image": "a.png", "sent": "red cup", "bbox": [1, 2, 30, 40], "width": 60, "height": 40}
    hub = {"image": {"bytes": png(), "path": None}, "answer": ["red cup", "cup left"], "bbox": [1.0, 2.0, 29.0, 38.0]}
    (first,) = read(as_json(folder / "val.json", [ours]), "refcoco")
    (second,) = read(jsonl(folder / "val.jsonl", qwen), "refcoco")
    third, fourth = read(parquet(folder / "val.parquet", hub), "refcoco")
    assert {s.answer for s in (first, second, third, fourth)} == {(1.0, 2.0, 30.0, 40.0)}
    assert first.question == "Find the {red} cup."
    assert [s.meta["expression"] for s in (second, third, fourth)] == ["red cup", "red cup", "cup left"]
    assert third.id != fourth.id


# ---------------------------------------------------------------------------------------------------- files of any kind


def test_rows_may_come_as_jsonl_json_or_parquet(folder: Path) -> None:
    row = {"id": "1", "image": "a.png", "problem": "Find x.", "answer": "4"}
    paths = [
        jsonl(folder / "a.jsonl", row, row | {"id": "2"}),
        as_json(folder / "b.json", [row, row | {"id": "2"}]),
        parquet(folder / "c.parquet", row, row | {"id": "2"}),
        jsonl(folder / "d.json", row, row | {"id": "2"}),
    ]
    assert all([s.id for s in read(path, "easy_r1")] == ["1", "2"] for path in paths)


def test_shards_are_read_by_a_pattern_or_a_folder_but_not_two_splits_at_once(folder: Path) -> None:
    shards = folder / "shards"
    shards.mkdir()
    for k in range(2):
        row = {"id": str(k), "image": "a.png", "problem": "Find x.", "answer": "4"}
        parquet(shards / f"train-0000{k}-of-00002.parquet", row)
    assert [s.id for s in read(shards, "easy_r1", image_folder=folder)] == ["0", "1"]
    parquet(shards / "test-00000-of-00001.parquet", row)
    with pytest.raises(ValueError, match="holds test, train, perhaps training and test together"):
        read(shards, "easy_r1", image_folder=folder)
    assert [s.id for s in read(shards / "train-*", "easy_r1", image_folder=folder)] == ["0", "1"]
    with pytest.raises(ValueError, match=r"there is no such file; no name in .* matches"):
        read(shards / "val-*", "easy_r1")
    with pytest.raises(ValueError, match=r"got a file '\.txt', expected one of \.jsonl, \.json, \.parquet"):
        (folder / "t.txt").write_text("a,b")
        read(folder / "t.txt", "easy_r1")
    os.mkfifo(folder / "pipe.jsonl")
    with pytest.raises(ValueError, match=r"pipe\.jsonl: is no regular file"):
        read(folder / "pipe.jsonl", "easy_r1")


def test_a_hugging_face_data_set_on_disk_is_read_split_by_split(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"images": [[Image.new("RGB", (60, 40), "blue")]], "problem": ["<image>Find x."], "answer": ["4"]}
    one = datasets.Dataset.from_dict(
        rows,
        features=datasets.Features(
            {
                "images": datasets.Sequence(datasets.Image()),
                "problem": datasets.Value("string"),
                "answer": datasets.Value("string"),
            }
        ),
    )
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(folder / "set")
    one.save_to_disk(folder / "alone")
    for path, more in (("set", {"split": "test"}), ("alone", {})):
        (sample,) = read(folder / path, "easy_r1", **more)
        assert image_sha(sample.images[0]) == image_sha(Image.new("RGB", (60, 40), "blue"))
    with pytest.raises(ValueError, match="there is no split 'val'; it has train, test"):
        read(folder / "set", "easy_r1", split="val")
    with pytest.raises(ValueError, match="a file has no splits"):
        read(jsonl(folder / "t.jsonl", rec()), "vlm_r1", split="test")


# ------------------------------------------------------------------------------------------------------------ JSON text


@settings(max_examples=examples(60))
@given(
    value=st.lists(
        st.recursive(
            st.one_of(st.none(), st.integers(), st.floats(allow_nan=False), st.text()),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=6,
        )
    ),
    indent=st.sampled_from([None, 1]),
    window=st.integers(1, 9),
)
def test_a_json_list_is_read_the_same_with_any_window_size(
    tmp_path_factory: pytest.TempPathFactory, value: list[Any], indent: int | None, window: int
) -> None:
    path = tmp_path_factory.mktemp("j") / "a.json"
    path.write_text(json.dumps(value, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saccade.data.json_stream.WINDOW", window)
        found = list(elements(path))
    assert [element for _, _, element in found] == value
    lines = path.read_text().splitlines()
    for _, line, element in found:
        if isinstance(element, str) and indent:
            assert lines[line - 1].strip().rstrip(",") == json.dumps(element)


def test_rows_on_one_line_of_json_have_places_and_ids_of_their_own(folder: Path) -> None:
    rows = [{"image": "a.png", "problem": f"Find {name}.", "answer": "4"} for name in "xyz"]
    for indent, ends in ((None, ["1", "1, row 2", "1, row 3"]), (1, ["2", "7", "12"])):
        (folder / "t.json").write_text(json.dumps(rows, indent=indent))
        found = read(folder / "t.json", "easy_r1")
        assert [sample.id for sample in found] == [f"t.json:{end}" for end in ends]


@pytest.mark.parametrize(
    ("text", "good", "line", "message"),
    [
        ('[{"a": 1},\n{"a": ]', 2, 2, "this element has no end; what follows it is not read"),
        ('[{"a": 1},\n{"a": 2}', 2, 2, "got the end of the file"),
        ('[{"a": 1}\n{"a": 2}]', 1, 2, "expected '\\]' or ','|expected ','"),
        ('[{"a": 1},\n{"a": 2},]', 2, 2, "']' after a comma"),
        ('[{"a": 1}]\n[]', 1, 2, "after the end"),
        ("", 0, 1, "got the end of the file"),
        ("[" + "[" * 100_000, 1, 1, "this element has no end"),
    ],
)
def test_invalid_json_is_named_with_its_line_and_earlier_elements_are_kept(
    tmp_path: Path, text: str, good: int, line: int, message: str
) -> None:
    (tmp_path / "a.json").write_text(text)
    *before, (_, place, error) = elements(tmp_path / "a.json")
    assert (len(before), place) == (good, line)
    with pytest.raises(ValueError, match=message):
        raise error
