"""The layouts of published data: the same question has the same images, options and gold in each, or is refused."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from test_data_formats import as_json, instances, jsonl, parquet, png
from test_data_tables import read

from saccade.data import DataConfig
from saccade.data.guess import guess
from saccade.data.preflight import preflight
from saccade.data.questions import place_pictures
from saccade.data.sources import items
from saccade.tasks.templates import write_prompt
from saccade.types import Sample

ASKED: dict[str, Any] = {"question": "Which color is it?", "answer": "4"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, color in (("a.png", "white"), ("b.png", "red")):
        (tmp_path / name).write_bytes(png(color))
    return tmp_path


def one(folder: Path, row: dict[str, Any], source: str = "table", **more: Any) -> Sample:
    (found,) = read(jsonl(folder / "rows.jsonl", row), source, **more)
    return found


def refused(folder: Path, row: dict[str, Any], source: str = "table", **more: Any) -> str:
    entry = DataConfig(source=source, path=jsonl(folder / "rows.jsonl", row), **more)
    ((_, error),) = items(entry)
    assert isinstance(error, ValueError)
    return str(error)


def findings(folder: Path, row: dict[str, Any], **more: Any) -> list[str]:
    path = jsonl(folder / "rows.jsonl", row)
    return [str(found) for found in preflight(items(DataConfig(source="table", path=path, **more))).findings]


# -------------------------------------------------------------------------------------------------------------- markers


@pytest.mark.parametrize("style", ["<image{}>", "<image {}>", "<image_{}>", "<Image {}>", "[image {}]", "<img{}>"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_numbered_marker_never_moves_to_another_image(style: str, first: int) -> None:
    for order in permutations(range(3)):
        marks = [style.format(number + first) for number in order]
        question, _ = place_pictures(f"Compare {marks[0]} and {marks[1]} with {marks[2]}.", (), 3)
        if order == (0, 1, 2):
            assert question == "Compare <image> and <image> with <image>."
        else:
            named = [f"(picture {number + 1})" for number in order]
            assert question == f"Compare {named[0]} and {named[1]} with {named[2]}."


def test_a_marker_of_a_picture_that_the_row_does_not_have_is_refused() -> None:
    for question in ("Look at <image 1>.", "<image1> and <image3>", "Picture 1: <img>a.png</img> What?"):
        with pytest.raises(ValueError, match=r"picture \d, the row has|inside of <img> \('a.png'\)"):
            place_pictures(question, (), 2 if "3" in question else 0)


@pytest.mark.parametrize(
    "marker",
    [
        *("<IMAGE>", "<img>", "[IMAGE]", "{image}", "<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>"),
        *("<image_placeholder>", "<ImageHere>", "<start_of_image>"),
    ],
)
def test_markers_of_other_programs_are_markers_when_there_is_one_for_each_image(marker: str) -> None:
    assert place_pictures(f"{marker}What? {marker}", (), 2)[0] == "<image>What? <image>"
    assert place_pictures(f"{marker}What?", (), 2)[0] == f"{marker}What?", "left for the check to find"
    assert place_pictures("What is \\text{image} of f?", (), 1)[0] == "What is \\text{image} of f?"


def test_options_that_are_pictures_have_their_numbers(folder: Path) -> None:
    for options in (["<image 1>", "<image 2>"], ["<image>", "<image>"]):
        row = {"image": ["a.png", "b.png"], "question": "Which is red?", "options": options, "answer": "B"}
        sample = one(folder, row)
        assert sample.meta["options"] == ["(picture 1)", "(picture 2)"]
        assert write_prompt(sample, "bare").count("<image>") == 2


# --------------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    "row",
    [
        {"image": "a.png"},
        {"images": ["a.png"]},
        {"image_1": {"bytes": None, "path": "a.png"}, "image_2": None},
        {"image": "elsewhere/7.png", "decoded_image": {"bytes": None, "path": "a.png"}},
        {"img": "a.png"},
        {"picture": {"bytes": None, "path": "a.png"}},
        {"url": "https://x.org/a.png"},
        {"shots": [{"bytes": None, "path": "a.png"}]},
    ],
)
def test_an_image_is_read_or_its_column_is_named(folder: Path, row: dict[str, Any]) -> None:
    (column, *_) = row
    if column.startswith("image"):
        assert one(folder, ASKED | row).images == (str(folder / "a.png"),)
    else:
        assert f"column '{column}' holds an image" in refused(folder, ASKED | row)
        assert one(folder, ASKED | row, columns={"image": []}).images == ()


@pytest.mark.parametrize(
    ("source", "row"),
    [
        ("easy_r1", {"problem": "Which?", "answer": "4", "path": "./a.png"}),
        ("trl", {"prompt": "Which?", "answer": "4", "picture": "a.png"}),
        ("verl", {"prompt": "Which?", "answer": "4", "image_path": "a.png"}),
        ("ms_swift", {"query": "Which?", "response": "4", "img": {"bytes": None, "path": "a.png"}}),
        ("llava", {"conversations": [{"value": "?"}, {"value": "4"}], "image_file": "a.png"}),
        ("vlm_r1", {"image": [], "conversations": [{"value": "?"}, {"value": "4"}], "image_file": "a.png"}),
    ],
)
def test_no_format_leaves_an_image_out_in_silence(folder: Path, source: str, row: dict[str, Any]) -> None:
    (*_, column) = row
    assert f"column '{column}' holds an image" in refused(folder, row, source)
    assert one(folder, row | {column: "a word"}, source).images == ()
    gold = {"image": [], "question": "Which file is open?", "answer": "a.png", "id": "b.png"}
    assert one(folder, gold).answer == "a.png"


@pytest.mark.parametrize("column", ["system", "system_prompt"])
@pytest.mark.parametrize(
    ("source", "row"),
    [
        ("table", ASKED),
        ("easy_r1", {"problem": "Which?", "answer": "4"}),
        ("math_vision", {"question": "Which?", "options": [], "answer": "4", "image": "a.png"}),
        ("trl", {"prompt": "Which?", "answer": "4"}),
        ("verl", {"prompt": [{"role": "user", "content": "Which?"}], "answer": "4"}),
        ("gui_r1", {"instruction": "Which?", "gt_bbox": [0.1, 0.1], "image": "a.png"}),
        ("llava", {"conversations": [{"value": "?"}, {"value": "4"}]}),
        ("vlm_r1", {"image": [], "conversations": [{"value": "?"}, {"value": "4"}]}),
    ],
)
def test_no_system_turn_is_left_out(folder: Path, source: str, row: dict[str, Any], column: str) -> None:
    assert one(folder, row | {column: "Be brief."}, source).meta["system"] == "Be brief."


def test_letters_in_the_text_of_a_list_are_those_of_the_list(folder: Path) -> None:
    for gold in ('["A", "C"]', "['A', 'C']", ["A", "C"], "[A, C]"):
        assert one(folder, {"question": "?", "options": ["x", "y", "z"], "answer": gold}).answer == ["A", "C"]


def test_several_columns_of_images_keep_their_order(folder: Path) -> None:
    row = {f"image_{k}": {"bytes": png(size=(k, 9)), "path": None} for k in (10, 2, 1)}
    (sample,) = read(parquet(folder / "rows.parquet", ASKED | row))
    assert sample.images == tuple(png(size=(k, 9)) for k in (1, 2, 10))
    assert len(guess(folder / "rows.parquet").samples[0].images) == 3


def test_images_that_are_named_twice_must_be_the_same(folder: Path) -> None:
    parts = [{"type": "image", "image": "b.png"}, {"type": "text", "text": "What?"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "x"}]
    for source in ("llava", "ms_swift"):
        assert "its turns ['b.png']" in refused(folder, {"images": ["a.png"], "messages": turns}, source)
        assert one(folder, {"images": ["b.png"], "messages": turns}, source).images == (str(folder / "b.png"),)


def test_an_image_of_a_message_may_be_in_any_usual_form(folder: Path) -> None:
    for part in (
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "a.png"}},
        {"type": "image", "image": {"bytes": None, "path": "a.png"}},
    ):
        turns = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "x"}]
        assert one(folder, {"messages": turns}, "llava").images == (str(folder / "a.png"),)


# -------------------------------------------------------------------------------------------------------------- options

LAYOUTS: dict[str, dict[str, Any]] = {
    "list": {"options": ["red", "blue", "green"]},
    "choices": {"choices": ["red", "blue", "green"]},
    "with letters": {"options": ["A. red", "B. blue", "C. green"]},
    "mapping": {"options": {"B": "blue", "A": "red", "C": "green"}},
    "labels and texts": {"options": {"label": ["A", "B", "C"], "text": ["red", "blue", "green"]}},
    "JSON": {"options": '["red", "blue", "green"]'},
    "Python": {"options": "['red', 'blue', 'green']"},
    "numpy": {"options": "['red' 'blue'\n 'green']"},
    "lines": {"options": "A. red\nB. blue\nC. green"},
    "columns": {"A": "red", "B": "blue", "C": "green", "D": None},
    "in the question": {"question": "Which?\n(A) red\n(B) blue\n(C) green"},
    "in both": {"question": "Which?\nA. red\nB. blue\nC. green\nAnswer with it.", "options": ["red", "blue", "green"]},
    "in both, in a line": {"question": "(A) red (B) blue (C) green Say it.", "options": ["red", "blue", "green"]},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_options_and_gold_are_the_same_in_every_layout_and_asked_once(folder: Path, layout: str) -> None:
    for answer in ("B", "blue", "(B)", ["B"]):
        sample = one(folder, {"image": "a.png", "question": "Which?", "answer": answer} | LAYOUTS[layout])
        assert (sample.task, sample.answer) == ("choice", "B")
        prompt = write_prompt(sample, "bare")
        assert [prompt.count(text) for text in ("red", "blue", "green")] == [1, 1, 1]
        assert not findings(folder, {"image": "a.png", "question": "Which?", "answer": answer} | LAYOUTS[layout])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"options": ["B", "A"], "answer": "A"}, "the letter of option A and the text of option B"),
        ({"options": ["red", "red", "blue"], "answer": "red"}, "is the text of options A, B"),
        ({"question": "A. red B. blue", "options": ["blue", "red"], "answer": "B"}, "expected one order"),
        ({"options": ["red"] * 27, "answer": "A"}, "there are 27 options, expected 26 at most"),
        ({"options": ["red", "blue"], "answer": "1"}, "a number is not read as an index"),
        ({"answer": ["red", "crimson"]}, "is a list of 2 texts; expected one text, or set task: ocr"),
        ({"answer": []}, "is empty"),
        ({"answer": "x", "task": "closed choice"}, r"columns: {task: []}"),
        ({"answer": "x", "question": '[{"role": "user", "content": "What?"}]'}, "holds messages"),
        ({"answer": "x", "history": [["Where?", "Here"]]}, "holds earlier turns"),
    ],
)
def test_a_row_that_can_be_read_in_two_ways_is_refused(folder: Path, row: dict[str, Any], said: str) -> None:
    assert said in refused(folder, ASKED | row)


def test_a_letter_and_its_text_settle_what_a_letter_alone_does_not(folder: Path) -> None:
    assert one(folder, ASKED | {"options": ["B", "A"], "answer": "A. B"}).answer == "A"


def test_an_index_is_the_place_of_an_option_whatever_the_options_are(folder: Path) -> None:
    for options in (["red", "blue", "green"], ["2", "1", "0"], ["C", "B", "A"]):
        for place in range(3):
            for value in (place, str(place), float(place)):
                row = ASKED | {"choices": options, "answer": value}
                assert one(folder, row, columns={"answer_index": "answer"}).answer == "ABC"[place]
    for value in (3, -1, True, "B", 0.5):
        row = ASKED | {"choices": ["red", "blue", "green"], "answer": value}
        assert "expected a number from 0 to 2" in refused(folder, row, columns={"answer_index": "answer"})


def test_one_gold_in_a_list_is_that_gold(folder: Path) -> None:
    assert one(folder, ASKED | {"answer": ["14"]}).answer == "14"
    assert one(folder, ASKED | {"answer": ["red", "red "]}).answer == "red"
    assert {one(folder, ASKED | {"answer": value}).task for value in (True, "TRUE", "false", "Yes.")} == {"yes_no"}


def test_values_of_other_types_become_texts_or_are_refused(folder: Path) -> None:
    path = parquet(folder / "rows.parquet", ASKED | {"answer": Decimal("4.50")})
    assert read(path)[0].answer == "4.50"
    assert [one(folder, ASKED | {"answer": value}, task="yes_no").answer for value in (1, "0")] == [True, False]
    parquet(path, ASKED | {"answer": datetime(2020, 1, 1)})
    with pytest.raises(ValueError, match="is of the type datetime, expected a text or a number"):
        read(path)


def test_a_letter_without_options_is_a_finding(folder: Path) -> None:
    (found,) = findings(folder, ASKED | {"answer": "C"})
    assert "lists no options" in found
    assert not findings(folder, ASKED | {"answer": "C"}, task="choice"), "options in the image"


@pytest.mark.parametrize(
    "gold",
    [
        "cup<box>[[100, 200, 500, 600]]</box>",
        "<|object_ref_start|>cup<|object_ref_end|><|box_start|>(1,2),(5,6)<|box_end|>",
        "<loc0100><loc0200><loc0500><loc0600> cup",
        "[{'Position': [1, 2, 6, 8], 'Confidence': 1}]",
        "[(0.461, 0.527), (0.498, 0.521)]",
    ],
)
def test_coordinates_that_no_box_is_read_from_are_a_finding(folder: Path, gold: str) -> None:
    assert any("has coordinates" in found for found in findings(folder, ASKED | {"image": "a.png", "answer": gold}))


# ------------------------------------------------------------------------------------------------------------- trainers


def test_the_boxes_of_a_reply_of_ms_swift_are_its_gold(folder: Path) -> None:
    boxes = [[1, 2, 30, 20], [5, 6, 40, 30]]
    cup, plate = ({"bbox_2d": box, "label": name} for box, name in zip(boxes, ("cup", "plate"), strict=True))
    for question, reply, names, gold in (
        ("Find it", "<ref-object><bbox> and <ref-object><bbox>", ["cup", "plate"], [cup, plate]),
        ("Find all <ref-object>", "<bbox><bbox>", ["cup"], [cup, plate | {"label": "cup"}]),
        ("What is in <bbox>?", "<ref-object> at <bbox>", ["plate"], (5, 6, 40, 30)),
        ("Find it", '[{"bbox_2d": <bbox>, "label": "cup"}, {"bbox_2d": <bbox>, "label": "plate"}]', [], [cup, plate]),
    ):
        turns = [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": reply}]
        row = {"messages": turns, "images": ["a.png"], "objects": {"ref": names, "bbox": boxes}}
        assert one(folder, row, "ms_swift").answer == gold
    row = {"messages": [turns[0], turns[1] | {"content": "<bbox><bbox>"}], "images": ["a.png"]}
    assert "several <bbox>" in refused(folder, row | {"objects": {"ref": [], "bbox": boxes}}, "ms_swift")


def test_the_turns_before_a_question_are_not_lost(folder: Path) -> None:
    row = {"query": "And b?", "response": "4", "history": [["What is a?", "3"]]}
    sample = one(folder, row, "ms_swift")
    assert (sample.question, sample.answer) == ("What is a?", "3")
    assert [turn["content"] for turn in sample.meta["turns"]] == ["And b?", "4"]


def test_a_reply_that_is_not_to_be_learned_is_refused(folder: Path) -> None:
    for mark in ({"weight": 0}, {"loss": False}, {"train": False}):
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "wrong"} | mark]
        assert "not to be learned" in refused(folder, {"messages": turns}, "llava")


def test_messages_may_be_their_own_text(folder: Path) -> None:
    turns = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "x"}]
    for source, row in (
        ("trl", {"prompt": json.dumps(turns[:1]), "answer": "x"}),
        ("verl", {"prompt": str(turns[:1]), "answer": "x"}),
        ("llava", {"messages": json.dumps(turns)}),
        ("ms_swift", {"messages": json.dumps(turns)}),
    ):
        sample = one(folder, {"images": ["a.png"]} | row, source)
        assert (sample.question, sample.answer) == ("<image>?", "x")


def test_the_answer_is_the_gold_beside_the_way_to_it(folder: Path) -> None:
    row = {"prompt": "Find x.", "answer": "4", "solution": "First 3, so 3 + 1 = 4."}
    assert one(folder, row, "trl").answer == "4"
    reply = "<think>Is it <answer>5</answer>?</think><answer>4</answer>"
    turns = [{"from": "human", "value": "Find x."}, {"from": "gpt", "value": reply}]
    for source in ("vlm_r1", "llava"):
        assert one(folder, {"image": [], "conversations": turns}, source).answer == "4"


# ---------------------------------------------------------------------------------------------------------------- guess


@pytest.mark.parametrize(
    ("row", "question", "answer"),
    [
        ({"instruction": "Name both.", "input": "A and B", "output": "x"}, "Name both.\nA and B", "x"),
        ({"instruction": "Name both.", "input": "", "output": "x"}, "Name both.", "x"),
        ({"question": "Which?", "choices": ["a", "b"], "correct_choice_idx": 1}, "Which?", "B"),
        ({"question": "Which?", "choices": ["a", "b"], "answer": 0, "task": "closed choice"}, "Which?", "A"),
        ({"question": "Which?", "choice_a": "a", "choice_b": "b", "answer": "B"}, "Which?", "B"),
        ({"ID": "1", "question": "Which?", "option": "A. a; B. b", "answer": "B"}, "Which?", "B"),
        ({"query": "How many?", "label": ["14"]}, "How many?", "14"),
        ({"question": "How many?", "response": "<think>7 + 7</think><answer>14</answer>"}, "How many?", "14"),
    ],
)
def test_no_part_of_a_published_row_is_lost(folder: Path, row: dict[str, Any], question: str, answer: str) -> None:
    found = guess(jsonl(folder / "rows.jsonl", row)).samples[0]
    assert (found.question, found.answer) == (question, answer)


def test_the_gold_of_a_reply_with_thoughts_is_its_answer_and_the_reply_is_kept(folder: Path) -> None:
    reply = "<think>2 and 1.</think>\nFinal Answer: 3"
    turns = [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": reply}]
    found = guess(jsonl(folder / "rows.jsonl", {"image": "a.png", "conversations": turns})).samples[0]
    assert (found.answer, found.meta["response"]) == ("3", reply)


def test_columns_that_are_not_read_are_named(folder: Path) -> None:
    row = ASKED | {"image": "a.png", "hint": "It is winter.", "lecture": ""}
    assert str(guess(jsonl(folder / "rows.jsonl", row))) == "format table, not read: hint"
    sample = one(folder, row, columns={"question": ["hint", "question"]})
    assert sample.question == "It is winter.\nWhich color is it?"


def test_numbers_of_rows_are_no_golds(folder: Path) -> None:
    with pytest.raises(ValueError, match="no column 'answer'"):
        guess(jsonl(folder / "rows.jsonl", {"image_id": 1, "question": "What is it?", "question_id": 3}))


# ---------------------------------------------------------------------------------------------------------------- files


def test_rows_under_a_key_of_an_object_are_those_of_the_list(folder: Path) -> None:
    rows = [ASKED, ASKED | {"question": "Why?"}]
    path = folder / "rows.json"
    for key in ("data", "questions", "annotations"):
        for indent in (None, 1):
            path.write_text(json.dumps({"info": {"year": 2020}, "version": "1", key: rows}, indent=indent))
            assert [sample.question for sample in read(path)] == [row["question"] for row in rows]
    for value, said in (
        ({"1": ASKED, "2": ASKED}, "is one object; expected a list of rows"),
        ({"questions": rows, "annotations": rows}, "has lists under annotations and questions"),
    ):
        path.write_text(json.dumps(value, indent=1))
        with pytest.raises(ValueError, match=said):
            read(path)
    path.write_text(json.dumps(ASKED) + "\n" + json.dumps(ASKED))
    assert len(read(path)) == 2


def test_a_table_of_other_programs_is_read_or_refused_by_its_fault(folder: Path) -> None:
    path = folder / "rows.csv"
    for mark in ",;\t|":
        path.write_text(f"{mark}question{mark}answer\n0{mark}Why?{mark}4\n")
        assert [(sample.question, sample.answer) for sample in read(path)] == [("Why?", "4")]
    (folder / "rows.json").write_text(json.dumps([ASKED]), encoding="utf-16")
    with pytest.raises(ValueError, match="UTF-16; save the file as UTF-8"):
        read(folder / "rows.json")
    (folder / "rows.jsonl.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="unpack it first"):
        read(folder / "rows.jsonl.gz")


def test_folders_of_images_beside_those_of_rows_are_no_classes(folder: Path) -> None:
    for name in ("images", "data"):
        (folder / "clone" / name).mkdir(parents=True)
    (folder / "clone" / "images" / "a.png").write_bytes(png())
    jsonl(folder / "clone" / "data" / "train.jsonl", ASKED | {"image": "images/a.png"})
    assert [sample.question for sample in read(folder / "clone")] == [ASKED["question"]]
    assert [sample.question for sample in guess(folder / "clone").samples] == [ASKED["question"]]
    (folder / "clone" / "data").rename(folder / "clone" / "Art")
    with pytest.raises(ValueError, match="in this folder; there are some in Art, use one of them"):
        read(folder / "clone")


# ---------------------------------------------------------------------------------------------------------------- boxes


def yolo(base: Path, head: str, label: str) -> list[Sample]:
    for name in ("images", "labels"):
        (base / name).mkdir(parents=True, exist_ok=True)
    (base / "images" / "a.png").write_bytes(png(size=(200, 100)))
    (base / "labels" / "a.txt").write_text(label)
    (base / "data.yaml").write_text(f"train: images\n{head}")
    return read(base, "yolo")


@pytest.mark.parametrize("names", ["names: [yes, no]", "names: {0: yes, 1: no}", "names: {'0': yes, '1': no}"])
def test_class_names_of_yolo_are_the_texts_of_the_file(tmp_path: Path, names: str) -> None:
    (sample,) = yolo(tmp_path, names, "1 0.5 0.5 0.2 0.4\n")
    assert sample.answer == [{"bbox_2d": [80.0, 30.0, 120.0, 70.0], "label": "no"}]


@pytest.mark.parametrize(("shape", "points"), [("[2, 2]", "0.9 0.9 0.1 0.1"), ("[1, 3]", "0.9 0.9 2")])
def test_points_of_a_pose_are_no_corners_of_its_box(tmp_path: Path, shape: str, points: str) -> None:
    head = f"names: [cup]\nkpt_shape: {shape}"
    (sample,) = yolo(tmp_path, head, f"0 0.5 0.5 0.2 0.4 {points}\n")
    assert sample.answer == [{"bbox_2d": [80.0, 30.0, 120.0, 70.0], "label": "cup"}]
    with pytest.raises(ValueError, match="with those of kpt_shape"):
        yolo(tmp_path, head, "0 0.5 0.5 0.2 0.4 0.1\n")


def test_a_set_of_yolo_without_any_labels_is_refused(tmp_path: Path) -> None:
    yolo(tmp_path, "names: [cup]", "0 0.5 0.5 0.2 0.4\n")
    (tmp_path / "labels").rename(tmp_path / "annotations")
    with pytest.raises(ValueError, match=r"no image has a label file; expected such as .*labels/a\.txt"):
        read(tmp_path, "yolo")


def test_ids_of_coco_match_as_numbers_and_as_texts(folder: Path) -> None:
    plain, texts = instances(), instances()
    for entry in texts["annotations"]:
        entry["image_id"] = str(entry["image_id"])
    golds = [[one.answer for one in read(as_json(folder / "set.json", file), "coco")] for file in (plain, texts)]
    assert golds[0] == golds[1]


def test_flags_of_coco_are_read_as_numbers_and_as_texts(folder: Path) -> None:
    values = ((0, True), ("0", True), (False, True), (None, True), (1, False), ("1", False), (True, False))
    for key in ("iscrowd", "ignore"):
        for value, asked in values:
            crowd = instances()
            for entry in crowd["annotations"]:
                entry[key] = value
            found = list(items(DataConfig(source="coco", path=as_json(folder / "set.json", crowd))))
            assert bool([one for _, sample in found if isinstance(sample, Sample) for one in sample.answer]) == asked


def test_a_supercategory_without_boxes_is_no_label_that_is_absent(folder: Path) -> None:
    plain, roboflow = instances(), instances()
    for entry in roboflow["categories"]:
        entry["supercategory"] = "things"
    roboflow["categories"].insert(0, {"id": 99, "name": "things", "supercategory": "none"})
    asked = [[one.question for one in read(as_json(folder / "set.json", file), "coco")] for file in (plain, roboflow)]
    assert asked[0] == asked[1]


def test_a_box_of_refcoco_may_be_a_text(folder: Path) -> None:
    for box in ([1, 2, 30, 20], "[1, 2, 30, 20]", {"x1": 1, "y1": 2, "x2": 30, "y2": 20}):
        for row in ({"sent": "red cup", "bbox": box}, {"problem": "In <image>: red cup", "solution": box}):
            sample = one(folder, {"image": "a.png"} | row, "refcoco")
            assert sample.answer == (1, 2, 30, 20)
            assert sample.question.count("<image>") == row.get("problem", "").count("<image>")


def test_images_of_lvis_are_found_by_the_end_of_their_address(folder: Path) -> None:
    lvis = instances()
    for entry in lvis["images"]:
        entry["coco_url"] = f"http://images.cocodataset.org/{folder.name}/{entry.pop('file_name')}"
    path = as_json(folder / "lvis.json", lvis)
    names = [Path(str(sample.images[0])).name for sample in read(path, "coco", image_folder=folder.parent)]
    assert names == [entry["coco_url"].rpartition("/")[2] for entry in lvis["images"]]
