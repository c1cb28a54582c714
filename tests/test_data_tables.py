"""The source `table`, golds in any form, and the rows of other trainers."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data_formats import jsonl, parquet, png

from saccade.config import load
from saccade.data import DataConfig, open_source
from saccade.data.images import image_size
from saccade.data.parquet import parquet_rows
from saccade.data.preflight import preflight
from saccade.data.questions import listed_options
from saccade.data.sources import items
from saccade.tasks import TASKS
from saccade.types import Completion, Sample

COLUMNS = {"image": "file", "question": "prompt", "answer": "label", "options": "choices"}
DATA = Path(os.environ.get("SACCADE_DATA", "../shared/data"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, color in (("a.png", "white"), ("b.png", "red")):
        (tmp_path / name).write_bytes(png(color))
    return tmp_path


def read(path: Path, source: str = "table", **more: Any) -> list[Sample]:
    return list(open_source(DataConfig(source=source, path=path, **more)))


def right(sample: Sample, answer: str) -> bool:
    return TASKS[sample.task].correct(Completion(f"<answer>{answer}</answer>"), sample).right is True


# ------------------------------------------------------------------------------------------------------------------ csv


@pytest.mark.parametrize(("suffix", "mark"), [("csv", ","), ("csv", ";"), ("tsv", "\t")])
def test_rows_of_delimited_files_are_read_under_the_users_names(folder: Path, suffix: str, mark: str) -> None:
    lines = [
        ["file", "prompt", "label", "choices"],
        ["a.png", "Which color?", "white", '"red|white"'],
        ["", "1 + 1?", "2", ""],
    ]
    path = folder / f"train.{suffix}"
    path.write_text("\ufeff" + "\n".join(mark.join(line) for line in lines), encoding="utf-8")
    first, second = read(path, columns=COLUMNS)
    assert (first.task, first.answer, first.meta["options"]) == ("choice", "B", ["red", "white"])
    assert first.images == (str(folder / "a.png"),)
    assert TASKS["choice"].prompt(first) == "<image>Which color?\nA) red\nB) white"
    assert (second.task, second.answer, second.images) == ("free_form", "2", ())


def test_a_quoted_cell_may_hold_line_breaks_commas_and_an_image(folder: Path) -> None:
    image = base64.b64encode(png(size=(30, 20))).decode()
    path = folder / "t.csv"
    rows = f'{image},"Two\nlines, ""quoted""",4\n"data:image/png;base64,{image}",?,5\n {image.rstrip("=")} ,?,6\n'
    path.write_text(f"image,question,answer\n{rows}")
    first, second, third = read(path)
    assert (first.question, first.meta["place"]) == ('Two\nlines, "quoted"', "t.csv:3")
    assert [image_size(one.images[0]) for one in (first, second, third)] == [(30, 20)] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,question,answer\na.png,?\n", r"t\.csv:2: got 2 cells, expected 3 \(image, question, answer\)"),
        ("image,image,answer\n", r"expected a different name for each column"),
        ('image,question,answer\na.png,"?,4\n', r"t\.csv:2: not CSV"),
        (
            "image,prompt,answer\na.png,?,4\n",
            r"t\.csv:2: there is no column 'question'; the row has image, prompt, answer",
        ),
        ("image,question,answer\na.png,?,\n", r"t\.csv:2: column 'answer' is missing or empty"),
        ("image,question,answer\ngone.png,?,4\n", r"t\.csv:2: .*gone\.png"),
        ("image,question,answer\na.png,<image><image>?,4\n", r"t\.csv:2: .*2 <image> markers for 1 images"),
        ("image,question,answer,options\na.png,?,C,red|blue\n", r"t\.csv:2: answer 'C' names none of 2 options"),
        ("image,question,answer,options\na.png,?,1,red|blue\n", r"a number is not read as an index"),
    ],
)
def test_an_invalid_row_of_a_csv_is_named_with_its_line(folder: Path, text: str, message: str) -> None:
    path = folder / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read(path)


def test_a_file_that_is_not_utf_8_is_named(folder: Path) -> None:
    (folder / "t.csv").write_bytes("image,question,answer\na.png,wie groß?,4\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"t\.csv:2: not UTF-8 text"):
        read(folder / "t.csv")


def test_a_mistyped_column_key_has_its_nearest_name_and_columns_belong_to_tables(tmp_path: Path) -> None:
    entry = "kind: rl\nmodel: {path: base}\ndata: [{source: %s, path: x.csv, columns: {%s: a}}]\n"
    (tmp_path / "r.yaml").write_text(entry % ("table", "imgae"))
    from saccade.training.config import RLRecipe

    with pytest.raises(ValueError, match="unknown key 'imgae'; did you mean 'image'"):
        load(tmp_path / "r.yaml", RLRecipe)
    (tmp_path / "r.yaml").write_text(entry % ("vlm_r1", "image"))
    with pytest.raises(ValueError, match="'columns' is not an option of source 'vlm_r1'"):
        load(tmp_path / "r.yaml", RLRecipe)


# -------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "options",
    [
        ["red", "blue"],
        '["red", "blue"]',
        "['red', 'blue']",
        "red|blue",
        "red\nblue",
        "A. red\nB. blue",
        {"A": "red", "B": "blue"},
        {"label": ["A", "B"], "text": ["red", "blue"]},
        ["A. red", "B. blue"],
    ],
)
@pytest.mark.parametrize("gold", ["B", "b", "(B)", "B.", "blue", "B. blue", "The answer is B", ["B"]])
def test_options_and_golds_of_every_form_are_one_choice(folder: Path, options: Any, gold: Any) -> None:
    row = {"image": "a.png", "question": "Which color?", "options": options, "answer": gold}
    sample = read(jsonl(folder / "t.jsonl", row))[0]
    assert (sample.task, sample.answer) == ("choice", "B")
    assert TASKS["choice"].prompt(sample) == "<image>Which color?\nA) red\nB) blue"
    assert right(sample, "B")
    assert right(sample, "blue")
    assert not right(sample, "A")


def test_each_option_may_be_a_column_of_its_own(folder: Path) -> None:
    path = folder / "mmbench.tsv"
    path.write_text("image\tquestion\tA\tB\tC\tanswer\na.png\tWhich?\tred\tblue\t\tB\n")
    sample = read(path, columns={"options": ["A", "B", "C"]})[0]
    assert (sample.answer, sample.meta["options"]) == ("B", ["red", "blue"])


@pytest.mark.parametrize(
    "listing",
    [
        "\nA. red\nB. blue",
        " (A) red (B) blue",
        "\na) red\nb) blue",
        " A: red, B: blue",
        "\nＡ．red\nＢ．blue",
        "\n[A] red\n[B] blue",
    ],
)
@pytest.mark.parametrize("gold", ["B", "b", "blue", "B. blue"])
def test_options_listed_in_the_question_are_not_written_twice(folder: Path, listing: str, gold: str) -> None:
    row = {"image": "a.png", "problem": f"<image>Which color?{listing}", "answer": gold}
    sample = read(jsonl(folder / "t.jsonl", row), "easy_r1")[0]
    assert (sample.task, sample.answer, sample.meta["options"]) == ("choice", "B", ["red", "blue"])
    assert TASKS["choice"].prompt(sample) == row["problem"]
    assert right(sample, "blue")
    assert not right(sample, "red")


@pytest.mark.parametrize("text", ["", "See A. and so on.", "Is a) true?", "Triangle ABC.", "(B) first (A) second"])
def test_prose_lists_no_options(text: str) -> None:
    assert listed_options(text) == []


@pytest.mark.parametrize("gold", ["AC", "A, C", "A and C", "(A)(C)", ["A", "C"], ["red", "green"], '["A", "C"]'])
def test_several_right_letters_are_a_task_of_their_own(folder: Path, gold: Any) -> None:
    row = {"image": "a.png", "question": "Which?", "options": ["red", "blue", "green"], "answer": gold}
    sample = read(jsonl(folder / "t.jsonl", row))[0]
    assert (sample.task, sample.answer) == ("choices", ["A", "C"])
    assert right(sample, "C and A")
    assert not right(sample, "A")
    assert preflight([("t.jsonl:1", sample)]).ok


@pytest.mark.parametrize(
    ("source", "row"),
    [
        ("easy_r1", {"problem": "Which?", "answer": "B"}),
        ("vlm_r1", {"conversations": [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "B"}]}),
        (
            "llava",
            {
                "conversations": [
                    {"from": "human", "value": "Which?"},
                    {"from": "gpt", "value": "It is <answer>B</answer>"},
                ]
            },
        ),
        ("trl", {"prompt": "Which?", "solution": "B"}),
        ("ms_swift", {"query": "Which?", "solution": "B"}),
    ],
)
def test_options_beside_the_question_are_shown_in_every_format(folder: Path, source: str, row: dict[str, Any]) -> None:
    path = jsonl(folder / "t.jsonl", row | {"image": "a.png", "choices": ["red", "blue"]})
    sample = read(path, source)[0]
    assert (sample.task, sample.answer) == ("choice", "B")
    assert TASKS["choice"].prompt(sample) == "<image>Which?\nA) red\nB) blue"
    with pytest.raises(ValueError, match=r"options are 5, expected a list of texts"):
        read(jsonl(folder / "t.jsonl", row | {"image": "a.png", "choices": 5}), source)


def test_a_text_that_is_no_option_is_left_to_the_rules_of_mathematics(folder: Path) -> None:
    row = {"image": "a.png", "problem": "In A. there is x, in B. there is y. Add both.", "answer": "x+y"}
    assert read(jsonl(folder / "t.jsonl", row), "easy_r1")[0].task == "free_form"


# ---------------------------------------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize(
    "gold",
    [
        "[1, 2, 30, 20]",
        '{"bbox_2d": [1, 2, 30, 20]}',
        '{"bbox": [1, 2, 30, 20]}',
        '```json\n[{"bbox_2d": [1, 2, 30, 20]}]\n```',
        "[[1, 2, 30, 20]]",
        "(1,2),(30,20)",
        "<|box_start|>(1,2),(30,20)<|box_end|>",
        '{"x1": 1, "y1": 2, "x2": 30, "y2": 20}',
        "<answer>[1, 2, 30, 20]</answer>",
    ],
)
def test_a_gold_that_is_nothing_but_a_box_is_a_box(folder: Path, gold: str) -> None:
    turns = [{"from": "human", "value": "<image>Where is the cup?"}, {"from": "gpt", "value": gold}]
    sample = read(jsonl(folder / "t.jsonl", {"image": "a.png", "conversations": turns}), "vlm_r1")[0]
    assert (sample.task, sample.answer) == ("refer", (1.0, 2.0, 30.0, 20.0))


@pytest.mark.parametrize(
    "gold",
    ['[{"bbox_2d": [1, 2, 30, 20], "label": "cup"}]', '{"bbox": [1, 2, 30, 20], "category": "cup"}'],
)
def test_labeled_boxes_are_detections_under_the_names_of_the_field(folder: Path, gold: str) -> None:
    sample = read(jsonl(folder / "t.jsonl", {"image": "a.png", "question": "Find cups.", "answer": gold}))[0]
    assert (sample.task, sample.answer) == ("detect", [{"bbox_2d": [1.0, 2.0, 30.0, 20.0], "label": "cup"}])


@pytest.mark.parametrize("gold", ["[30, 2, 1, 20]", "[1, 2, 3]", "(1, 2, 3, 4, 5)", "1, 2, 3, 4", "[1/2, 2, 3, 4]"])
def test_lists_of_numbers_that_are_no_box_stay_mathematics(folder: Path, gold: str) -> None:
    assert read(jsonl(folder / "t.jsonl", {"image": "a.png", "question": "?", "answer": gold}))[0].task == "free_form"


def test_boxes_in_thousandths_with_y_first_are_refused_by_name(folder: Path) -> None:
    row = {"image": "a.png", "question": "?", "answer": '[{"box_2d": [1, 2, 3, 4], "label": "cup"}]', "task": "detect"}
    with pytest.raises(ValueError, match=r"'box_2d' is the name of boxes that are \[y1, x1, y2, x2\]"):
        read(jsonl(folder / "t.jsonl", row))


# -------------------------------------------------------------------------------------------------------------- folders


def test_an_image_folder_is_read_by_its_metadata_or_its_classes(folder: Path) -> None:
    base = folder / "set"
    for name in ("train/cat/1.png", "train/dog/2.png"):
        (base / name).parent.mkdir(parents=True)
        (base / name).write_bytes(png())
    columns = {"answer": "label", "question": "q"}
    samples = list(items(DataConfig(source="table", path=base, split="train", columns={"answer": "label"})))
    assert all("there is no column 'question'" in str(error) for _, error in samples)
    (base / "train" / "metadata.csv").write_text("file_name,q,label\ncat/1.png,What is it?,cat\n")
    sample = read(base, split="train", columns=columns)[0]
    assert (sample.images, sample.answer) == ((str(base / "train/cat/1.png"),), "cat")


def test_a_clone_of_a_data_set_is_read_split_by_split(folder: Path) -> None:
    data = folder / "clone" / "data"
    data.mkdir(parents=True)
    row = {"images": [{"bytes": png(), "path": None}], "problem": "?", "answer": "4"}
    parquet(data / "train-00000-of-00001.parquet", row)
    parquet(data / "test-00000-of-00001.parquet", row, row)
    assert [len(read(folder / "clone", "easy_r1", **split)) for split in ({}, {"split": "test"})] == [1, 2]
    with pytest.raises(ValueError, match="there is no split 'val'; it has test, train"):
        read(folder / "clone", "easy_r1", split="val")


VOC = """<annotation><filename>a.png</filename><size><width>60</width><height>40</height></size>
<object><name>cup</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>20</ymax></bndbox></object>{more}
</annotation>"""


def test_pascal_voc_and_yolo_ask_the_same_questions(folder: Path) -> None:
    for name in ("voc/Annotations", "voc/JPEGImages", "yolo/images/train", "yolo/labels/train"):
        (folder / name).mkdir(parents=True)
    (folder / "voc/JPEGImages/a.png").write_bytes(png())
    (folder / "yolo/images/train/a.png").write_bytes(png())
    (folder / "voc/Annotations/a.xml").write_text(VOC.format(more=""))
    (folder / "yolo/labels/train/a.txt").write_text(f"0 {15.5 / 60} {11 / 40} {29 / 60} {18 / 40}\n")
    (folder / "yolo/data.yaml").write_text("path: .\ntrain: images/train\nnames: {0: cup, 1: hat}\n")
    for task, answer in (
        ("refer", (1, 2, 30, 20)),
        ("count", 1),
        ("detect", [{"bbox_2d": [1, 2, 30, 20], "label": "cup"}]),
    ):
        voc = read(folder / "voc", "voc", task=task)
        yolo = read(folder / "yolo", "yolo", task=task)
        for sample in (voc[0], yolo[0]):
            found = (
                sample.answer[0] | {"bbox_2d": [round(v, 6) for v in sample.answer[0]["bbox_2d"]]}
                if task == "detect"
                else sample.answer
            )
            assert (
                found == pytest.approx(answer)
                if task == "refer"
                else found == (answer[0] if task == "detect" else answer)
            )
    counts = read(folder / "yolo", "yolo", task="count")
    assert [(one.meta["label"], one.answer) for one in counts] == [("cup", 1), ("hat", 0)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("<object><name>hat</name></object>", "object 2: <bndbox> has"),
        ("<object><bndbox/></object>", "object 2: <name>: a label is"),
        ("<x>", "not XML"),
    ],
)
def test_an_invalid_annotation_is_named_and_its_image_skipped(folder: Path, more: str, message: str) -> None:
    (folder / "Annotations").mkdir()
    (folder / "Annotations/a.xml").write_text(VOC.format(more=more))
    (folder / "Annotations/b.xml").write_text(VOC.format(more=""))
    (place, error), *samples = items(DataConfig(source="voc", path=folder))
    assert place == "Annotations/a.xml"
    assert message in str(error)
    assert len(samples) == 1


def test_an_annotation_with_entities_is_refused(folder: Path) -> None:
    (folder / "Annotations").mkdir()
    (folder / "Annotations/a.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]>' + VOC.format(more=""))
    with pytest.raises(ValueError, match="declares XML entities"):
        read(folder, "voc")


@pytest.mark.parametrize(
    ("line", "message"),
    [("0 0.5 0.5 2 1", "shares of the image"), ("7 0.5 0.5 1 1", "the class '7'"), ("0 0.5", "got 2 numbers")],
)
def test_an_invalid_label_line_is_named(folder: Path, line: str, message: str) -> None:
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    (folder / "images/a.png").write_bytes(png())
    (folder / "labels/a.txt").write_text(f"0 0.5 0.5 1 1\n{line}\n")
    (folder / "data.yaml").write_text("train: images\nnames: [cup]\n")
    ((place, error),) = items(DataConfig(source="yolo", path=folder))
    assert place == "labels/a.txt"
    assert "line 2: got" in str(error)
    assert message in str(error)


@pytest.mark.skipif(not (DATA / "bccd").is_dir(), reason=f"{DATA / 'bccd'} is not there")
def test_the_photographs_of_blood_cells_are_read_in_their_splits() -> None:
    train, val = (read(DATA / "bccd", "voc", task="count", split=split, on_bad="skip") for split in ("train", "val"))
    assert {one.meta["place"] for one in train}.isdisjoint(one.meta["place"] for one in val)
    assert {one.meta["label"] for one in train} == {"RBC", "WBC", "Platelets"}
    with pytest.raises(ValueError, match="has the splits train, val; set 'split'"):
        read(DATA / "bccd", "voc")


# ------------------------------------------------------------------------------------------------------- other trainers


PARTS = [{"type": "image"}, {"type": "text", "text": "How many?"}]


@pytest.mark.parametrize(
    ("source", "row"),
    [
        (
            "trl",
            {"prompt": [{"role": "user", "content": PARTS}], "images": ["a.png"], "solution": "<answer>4</answer>"},
        ),
        ("trl", {"prompt": "How many?", "image": "a.png", "answer": "4"}),
        (
            "verl",
            {
                "prompt": [{"role": "user", "content": "<image>How many?"}],
                "images": [{"bytes": None, "path": "a.png"}],
                "reward_model": {"style": "rule", "ground_truth": "4"},
            },
        ),
        (
            "ms_swift",
            {"messages": [{"role": "user", "content": "<image>How many?"}], "images": ["a.png"], "solution": "4"},
        ),
        ("ms_swift", {"query": "<image>How many?", "response": "So <answer>4</answer>", "images": ["a.png"]}),
        (
            "llava",
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "image": "a.png"}, *PARTS[1:]]},
                    {"role": "assistant", "content": "4"},
                ]
            },
        ),
    ],
)
def test_rows_of_other_trainers_ask_the_same_question(folder: Path, source: str, row: dict[str, Any]) -> None:
    sample = read(jsonl(folder / "t.jsonl", row), source)[0]
    assert TASKS[sample.task].prompt(sample) == "<image>How many?"
    assert (sample.answer, sample.images) == ("4", (str(folder / "a.png"),))


def test_a_system_turn_is_kept_and_several_turns_are_refused_by_name(folder: Path) -> None:
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "?"}]
    row = {"prompt": turns, "solution": "4"}
    assert read(jsonl(folder / "t.jsonl", row), "trl")[0].meta["system"] == "Be short."
    row = {"prompt": [*turns, {"role": "assistant", "content": "x"}, turns[1]], "solution": "4"}
    with pytest.raises(ValueError, match=r"t\.jsonl:1: .*the roles are system, user, assistant, user"):
        read(jsonl(folder / "t.jsonl", row), "trl")


@pytest.mark.parametrize(
    ("kind", "box"), [("real", [6, 4, 30, 20]), ("norm1", [0.1, 0.1, 0.5, 0.5]), ("norm1000", [100, 100, 500, 500])]
)
def test_boxes_of_ms_swift_become_pixels_of_the_image(folder: Path, kind: str, box: list[float]) -> None:
    row = {
        "messages": [
            {"role": "user", "content": "<image>Find the <ref-object>."},
            {"role": "assistant", "content": "<bbox>"},
        ],
        "images": ["a.png"],
        "objects": {"ref": ["cup"], "bbox": [box], "bbox_type": kind},
    }
    sample = read(jsonl(folder / "t.jsonl", row), "ms_swift")[0]
    assert (sample.task, sample.question) == ("refer", "<image>Find the cup.")
    assert sample.answer == pytest.approx((6, 4, 30, 20))
    assert "response" not in sample.meta


def test_clicks_of_gui_r1_are_points_and_other_actions_are_refused(folder: Path) -> None:
    row = {"image": "a.png", "instruction": "Open it.", "gt_action": "click", "gt_bbox": [0.1, 0.1, 0.5, 0.5]}
    sample = read(jsonl(folder / "t.jsonl", row), "gui_r1")[0]
    assert (sample.task, sample.answer) == ("point", pytest.approx((6, 4, 30, 20)))
    with pytest.raises(ValueError, match="gt_action is 'scroll'; only clicks"):
        read(jsonl(folder / "t.jsonl", row | {"gt_action": "scroll"}), "gui_r1")
    with pytest.raises(ValueError, match="as shares of the image"):
        read(jsonl(folder / "t.jsonl", row | {"gt_bbox": [10, 10, 50, 50]}), "gui_r1")


def test_audio_and_damaged_base64_are_refused_by_name(folder: Path) -> None:
    row = {"image": "a.png", "question": "?", "answer": "4"}
    with pytest.raises(ValueError, match="field 'audio'; audio is not supported"):
        read(jsonl(folder / "t.jsonl", row | {"audio": "a.wav"}))
    with pytest.raises(ValueError, match="base64 of the image is damaged"):
        read(jsonl(folder / "t.jsonl", row | {"image": "data:image/png;base64,a"}))
    cut = base64.b64encode(png()[:60]).decode()
    with pytest.raises(ValueError, match="image of 60 bytes"):
        read(jsonl(folder / "t.jsonl", row | {"image": cut}))


def test_a_converted_table_gives_the_same_samples(folder: Path) -> None:
    from saccade.data.convert import convert

    row = {
        "image": "a.png",
        "question": "Which?",
        "options": ["red", "blue", "green"],
        "answer": "AC",
        "system": "Be short.",
    }
    entry = DataConfig(source="table", path=jsonl(folder / "t.jsonl", row))
    convert([entry], folder / "out", keep="hash")
    (before,), (after,) = read(folder / "t.jsonl"), read(folder / "out", "saccade")
    unnamed = [replace(one, images=(), meta={**one.meta, "source": ""}) for one in (before, after)]
    assert unnamed[0] == unnamed[1]
    assert json.loads((folder / "out" / "summary.json").read_text())["format"] == "table"


def test_a_cell_that_python_cannot_hold_costs_its_row_only(tmp_path: Path) -> None:
    whole, bad = pa.nulls(1, pa.string()), pa.array([b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"id": [1, 2, 3], "x": pa.chunked_array([whole, bad, whole])}), tmp_path / "t.parquet")
    found = [row for _, row in parquet_rows(tmp_path / "t.parquet")]
    assert [row if isinstance(row, dict) else str(row)[:37] for row in found] == [
        {"id": 1, "x": None},
        "the row has a value that cannot be re",
        {"id": 3, "x": None},
    ]
