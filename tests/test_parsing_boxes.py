"""Laws of the box reader: every notation, as written, in order."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.parsing import LabelledBox, read_boxes, read_detections, read_entries
from saccade.parsing.points import read_points

NUMBER = st.integers(-2000, 2000) | st.floats(-2000, 2000).map(lambda v: round(v, 3))
LABEL = st.text(alphabet=st.characters(exclude_characters='`"\\', exclude_categories=("Cs", "Cc")), max_size=12)
ITEMS = st.lists(st.tuples(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), LABEL), max_size=6)


@given(
    ITEMS,
    st.sampled_from(["bbox_2d", "bbox", "box"]),
    st.sampled_from(["{}", "```json\n{}\n```", "Here: {} ok?", "```{}```"]),
)
def test_json_of_labelled_boxes_reads_back(items, key, around):
    text = json.dumps([{key: list(box), "label": label} for box, label in items], ensure_ascii=False)
    assert read_boxes(around.replace("{}", text)) == [
        LabelledBox(tuple(map(float, box)), label) for box, label in items
    ]


@given(ITEMS)
def test_a_list_that_stops_in_the_middle_keeps_its_whole_items(items):
    text = json.dumps(
        [{"bbox_2d": list(box), "label": label.translate({123: None, 125: None})} for box, label in items]
    )
    found = read_boxes(text[:-1] + ', {"bbox_2d": [1, 2')
    assert [item.box for item in found] == [tuple(map(float, box)) for box, _ in items]


BOX = (1.0, 2.0, 30.0, 40.0)


@pytest.mark.parametrize(
    "text",
    [
        '{"bbox_2d": [1, 2, 30, 40]}',
        '{"bbox": [1.0, 2.0, 30.0, 40.0]}',
        '{"box": ["1", "2", "30", "40"]}',
        '{"bbox_2d": [[1, 2, 30, 40]]}',
        "[1, 2, 30, 40]",
        "[1,2,30,40]",
        "[ 1 , 2 , 30 , 40 ]",
        "[[1, 2, 30, 40]]",
        "The box is [1, 2, 30, 40].",
        "{'bbox_2d': [1, 2, 30, 40]}",
        '{"bbox_2d": [1, 2, 30, 40],}',
        '[{"bbox_2d": [1, 2, 30, 40]},]',
        "<|box_start|>(1,2),(30,40)<|box_end|>",
        "<box>[[1, 2, 30, 40]]</box>",
        "<|begin_of_box|>[[1, 2, 30, 40]]<|end_of_box|>",
        '{"objects": [{"bbox_2d": [1, 2, 30, 40]}]}',
        # without the markup around it, or written in another way
        "(1,2),(30,40)",
        "(1, 2) (30, 40)",
        "The box is (1,2),(30,40).",
        "(1,2,30,40)",
        "The box is ( 1, 2, 30, 40 ).",
        "1, 2, 30, 40",
        " 1 2 30 40. ",
        "[1，2，30，40]",
        "（1，2），（30，40）",
        '{"bbox_2d"：[1，2，30，40]}',
        '{"x1": 1, "y1": 2, "x2": 30, "y2": 40}',
        '{"bbox_2d": {"x1": 1, "y1": 2, "x2": 30, "y2": 40}}',
        '{"xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40}',
        "{'x1': 1, 'y1': 2, 'x2': 30, 'y2': 40}",
        "x1=1, y1=2, x2=30, y2=40",
        '{"bbox_2d": [[1, 2], [30, 40]]}',
        '{"bbox_2d": [[1, 2], [30, 40]],}',
        "[[1, 2], [30, 40]]",
        "[(1, 2), (30, 40)]",
        '{"bbox_2d": "[1,2,30,40]"}',
        '{"bbox_2d": "(1,2),(30,40)"}',
        '{"bbox_2d": "1, 2, 30, 40"}',
        "[1, 2, 30, 40,]",
        "[1 2 30 40]",
        "[1; 2; 30; 40]",
        "[1px, 2px, 30px, 40px]",
        "<box>1, 2, 30, 40</box>",
        "<box>1 2 30 40</box>",
        '<bbox x1="1" y1="2" x2="30" y2="40"/>',
        "xmin=1, ymin=2, xmax=30, ymax=40",
        "(1,2)-(30,40)",
        "The box is from (1, 2) to (30, 40).",
        "Top-left: (1, 2), bottom-right: (30, 40)",
        '{"top_left": [1, 2], "bottom_right": [30, 40]}',
        '{"left": 1, "top": 2, "right": 30, "bottom": 40}',
        '{"x": 1, "y": 2, "width": 29, "height": 38}',
        '{"bbox_2d": {"x": 1, "y": 2, "w": 29, "h": 38}}',
        "x=1, y=2, w=29, h=38",
        '```json\n[{"bbox_2d": [9, 9, 9, 9]}]\n```\nNo:\n```json\n{"bbox_2d": [1, 2, 30, 40]}\n```',
    ],
)
def test_one_box_in_every_notation(text):
    assert [item.box for item in read_boxes(text)] == [BOX]


def test_boxes_are_taken_as_written():
    assert read_boxes("[30, -40.5, 1, 2e1]") == [LabelledBox((30.0, -40.5, 1.0, 20.0))]


def test_labels_come_before_or_after_the_box_in_whole_and_in_broken_json():
    for tail in ("]", ""):
        text = '[{"label": "a", "bbox_2d": [1, 2, 30, 40]}, {"bbox_2d": [1, 2, 30, 40], "label": "b"}' + tail
        assert read_boxes(text) == [LabelledBox(BOX, "a"), LabelledBox(BOX, "b")]


@pytest.mark.parametrize(
    "text",
    [
        '{"bbox_2d": null}',
        '{"bbox_2d": [1, 2, 3]}',
        '{"bbox_2d": "here"}',
        '{"bbox_2d": [NaN, 1, 2, 3]}',
        '{"bbox_2d": [Infinity, 1, 2, 3]}',
        '{"bbox_2d": [1, 2, 3, 1e999]}',
        '{"bbox_2d": [true, 1, 2, 3]}',
        "{'bbox_2d': [1, 2]}",
        '{"bbox_2d": [' + "9" * 5000 + ", 1, 2, 3]}",
        '{"bbox_2d": [[1, 2], [3, "left"]]}',
        '{"bbox_2d": "[1,2,3]"}',
        '{"bbox_2d": "[1,2,3,4] or [5,6,7,8]"}',
        '{"bbox_2d": {"x1": 1, "y1": 2}}',
        '{"x1": 1, "y1": 2, "x2": null, "y2": 4}',
        '{"x": 1, "y": 2, "w": null, "h": 4}',
    ],
)
def test_a_box_that_cannot_be_read_is_no_box_but_counts_as_an_entry(text):
    assert read_boxes(text) == [] and read_detections(text) is None
    assert read_entries(text) == [(None, "")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "3",
        "[1, 2, 3]",
        "[1, 2, 3, 4, 5]",
        "{}",
        "(1, 2), (3, 4), (5, 6)",
        "[a, b, c, d]",
        "1, 2, 3",
        "1, 2, 3, 4, 5",
    ],
)
def test_no_box_reads_as_none(text):
    assert read_boxes(text) == []


@pytest.mark.parametrize(
    "text", ["[]", "None", "none.", " null ", "```json\n[]\n```", "```json\nNone\n```", '{"objects": []}']
)
def test_an_outright_nothing_is_an_empty_list(text):
    assert read_detections(text) == []


@pytest.mark.parametrize("text", ["", "There are no such objects.", "[1, 2]", "no", "{}", "[[]]"])
def test_prose_is_no_empty_list(text):
    assert read_detections(text) is None


def test_full_width_commas_of_a_label_stay_where_the_list_can_be_read_without_them():
    assert read_boxes('[{"bbox_2d": [1, 2, 30, 40], "label": "猫，狗"}]') == [LabelledBox(BOX, "猫，狗")]
    assert [item.box for item in read_boxes('[{"bbox_2d": [1，2，30，40], "label": "猫"}, {"bbox_2d": [1]}]')] == [BOX]


@pytest.mark.parametrize(
    "text",
    [
        "[46, 43]",
        "[46，43]",
        "（46，43）",
        "46, 43",
        '{"point_2d": [46, 43]}',
        '{"x": 46, "y": 43}',
        '{"x": "46", "y": "43"}',
        '[{"x": 46, "y": 43, "label": "a"}]',
        "x=46, y=43",
        "x = 46; y = 43",
        "X: 46 Y: 43",
        "<point>46 43</point>",
        "<point>46, 43</point>",
        "<point>[46, 43]</point>",
        '<point x="46" y="43">a</point>',
        '<points x1="46" y1="43">a</points>',
        "(46px, 43px)",
    ],
)
def test_one_point_in_every_notation(text):
    assert read_points(text) == [(46.0, 43.0)]


@pytest.mark.parametrize(
    "text", ["", "46", "[1, 2, 3, 4]", "x1=1, y1=2, x2=3, y2=4", "max=46, y=43", "x=46, y=43cm", "<point>46</point>"]
)
def test_no_point_reads_as_none(text):
    assert read_points(text) == []


@pytest.mark.parametrize(
    "seed",
    [
        "(1,",
        "(1,2),",
        "(1,2)(3,4) ",
        "x1=1, ",
        "x1=1, y1=2, x2=3, ",
        "[1，",
        '{"x1": 1, ',
        '{"bbox_2d": "',
        "x=1,y=",
        "[1 ",
        "cat: ",
        "\n     ",
        "<box>1 ",
        "(1,2) to ",
        "1 ",
    ],
)
def test_readers_of_boxes_and_points_take_time_linear_in_the_text(seed):
    text = seed * (40_000 // len(seed))
    start = time.thread_time()
    read_boxes(text), read_points(text), read_boxes(text + "，")
    assert time.thread_time() - start < 0.5
