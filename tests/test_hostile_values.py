"""Any value at any place of a row, in any format: it costs its row at most, wherever rows are read or checked."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image
from property_search import examples

from saccade.data import DataConfig, open_source
from saccade.data.preflight import preflight
from saccade.data.sources import items
from saccade.evaluation.benchmarks.benchmark import ParsedReply
from saccade.evaluation.benchmarks.own import by_task
from saccade.faults import listed, shown
from saccade.tasks import TASKS
from saccade.training.config import ExampleConfig
from saccade.training.examples import example_items
from saccade.types import Completion, Frame, Sample

BOX = [1, 2, 30, 40]
IMAGE = {"id": 1, "image": "ok.png"}
TURNS = [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "<think>a</think><answer>1</answer>"}]
CHAT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}]
META = {
    "options": ["a", "b"],
    "system": "s",
    "turns": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
    "image_index": 0,
    "annotated_size": [56, 56],
    "reward": {"name": "choice", "options": {}},
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "vlm_r1": [
        {**IMAGE, "conversations": TURNS, "task": "choice", "answer": "A", "meta": META},
        {**IMAGE, "conversations": TURNS, "task": "refer", "answer": BOX, "width": 56, "height": 56},
        {**IMAGE, "conversations": TURNS, "task": "detect", "answer": [{"bbox_2d": BOX, "label": "a"}]},
    ],
    "llava": [{**IMAGE, "conversations": [*TURNS, *TURNS[1:]], "system": "s"}, {**IMAGE, "messages": CHAT}],
    "easy_r1": [
        {"images": ["ok.png"], "problem": "<image>q", "answer": "3", "choices": ["a", "b"], "ground_truth": "A"}
    ],
    "math_vision": [{**IMAGE, "question": "<image1>q", "options": ["a", "b"], "answer": "A", "level": 3}],
    "refcoco": [{**IMAGE, "bbox": BOX, "sent": "dog", "width": 56, "height": 56}],
    "table": [{**IMAGE, "question": "q", "answer": "1", "options": ["1", "2"], "system": "s", "response": "r"}],
    "trl": [
        {"prompt": CHAT, "images": ["ok.png"], "solution": "3", "completion": [{"role": "assistant", "content": "3"}]}
    ],
    "verl": [{"prompt": CHAT, "images": [{"path": "ok.png"}], "reward_model": {"ground_truth": "3"}, "extra_info": {}}],
    "ms_swift": [
        {
            "messages": [{"role": "user", "content": "<image>q"}, {"role": "assistant", "content": "<bbox>"}],
            "images": ["ok.png"],
            "objects": {"ref": ["a"], "bbox": [BOX], "bbox_type": "norm1000", "image_id": [0]},
        }
    ],
    "gui_r1": [{**IMAGE, "instruction": "q", "gt_action": "click", "gt_bbox": [0.1, 0.1, 0.5, 0.5], "history": "x"}],
    "saccade": [{"id": "a", "task": "choice", "question": "q", "answer": "A", "images": ["ok.png"], "meta": META}],
}
ODD: list[Any] = [
    *(
        None,
        True,
        -1,
        3.7,
        float("nan"),
        float("inf"),
        10**400,
        "",
        "  ",
        "\x00",
        "\ud800",
        "<image>" * 9,
        "<|im_end|>",
    ),
    *("gone.png", "/etc/passwd", "a" * 5000, [], {}, [None], [[]], [{}], [1, 2, 3, 4], ["a", "b"], {"a": 1}),
    *({"role": "user"}, {"bytes": "x"}, {"path": 5}, "[1,2,3,4]", "{'a':1}", "nan", "1e999", "<answer></answer>"),
    *([{"bbox_2d": "x", "label": None}], {"ground_truth": {}}, json.loads("[" * 70 + "]" * 70), "\\frac{1}{0}"),
]
KEYS = (
    "options",
    "meta",
    "answer",
    "task",
    "image",
    "images",
    "system",
    "objects",
    "audio",
    "tools",
    "label",
    "content",
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*path, key)
        yield from places(one, (*path, key))


def changed(row: dict[str, Any], random: Random) -> dict[str, Any]:
    row = copy.deepcopy(row)
    for _ in range(random.choice([1, 1, 2])):
        *path, last = random.choice(list(places(row)) or [("x",)])
        inner: Any = row
        for key in path:
            inner = inner[key]
        how = random.random()
        if how < 0.1 and isinstance(inner, dict):
            inner.pop(last, None)
        elif how < 0.2 and isinstance(inner, dict):
            inner[random.choice(KEYS)] = copy.deepcopy(random.choice(ODD))
        elif how < 0.25 and isinstance(inner, list):
            inner.append(copy.deepcopy(random.choice(ODD)))
        else:
            inner[last] = copy.deepcopy(random.choice(ODD))
    return row


@pytest.mark.parametrize("source", ROWS)
def test_any_value_anywhere_costs_its_row_and_nothing_else(tmp_path: Path, source: str) -> None:
    Image.new("RGB", (56, 56), "red").save(tmp_path / "ok.png")
    path, random = tmp_path / "t.jsonl", Random(source)
    rows = [changed(random.choice(ROWS[source]), random) for _ in range(examples(40))]
    path.write_text("\n".join(map(json.dumps, [*rows, ROWS[source][0]])) + "\n")
    entry = DataConfig(source=source, path=path, on_bad="skip")
    found = list(items(entry))
    assert len({place for place, _ in found}) == len(rows) + 1, "each row gave a sample or its error"
    assert all(place.startswith("t.jsonl:") for place, _ in found)
    opened = open_source(entry)
    assert len(opened) + opened.skipped == len(found)
    for sample in opened:
        assert 0 <= TASKS[sample.task].rubric("default")(Completion("<answer>3</answer>"), sample).value <= 1
        texts = [sample.question, *(sample.meta.get("options") or ()), sample.meta.get("response") or ""]
        assert all(isinstance(text, str) and text != "None" for text in texts), texts
    assert preflight(found).samples == len(found)
    for reply in ("response", "gold") if source in ("llava", "table", "trl", "ms_swift") else ("gold",):
        config = ExampleConfig.model_validate({"source": source, "path": path, "on_bad": "skip", "reply": reply})
        assert list(example_items(config))


@pytest.mark.parametrize("key", META)
def test_a_key_of_meta_without_a_value_counts_as_absent_when_a_reply_is_graded(tmp_path: Path, key: str) -> None:
    Image.new("RGB", (56, 56), "red").save(tmp_path / "ok.png")
    row = {"id": "a", "image": "ok.png", "question": "q", "answer": BOX, "task": "refer", "meta": {key: None}}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
    (sample,) = open_source(DataConfig(source="saccade", path=tmp_path / "t.jsonl"))
    text = f"<answer>{BOX}</answer>"
    frames = (Frame("pixels_resized", (56, 56), (56, 56)),)
    assert TASKS["refer"].rubric("default")(Completion(text, frames=frames), sample).value > 0
    assert by_task(ParsedReply(text, str(BOX), frames), sample, None).right


def test_a_value_is_shown_by_its_beginning_however_much_it_is_written_out() -> None:
    bomb: Any = ["x"] * 10
    for _ in range(30):
        bomb = [bomb] * 10
    again: list[Any] = []
    again.append(again)
    for value in (bomb, {"a": bomb, "b": 1}, {"k" * 500: 1}, again, ["a" * (1 << 20)] * 3, "b" * 999):
        assert len(shown(value)) == 120 and shown(value).endswith("...")
    for value in ([1, ("a",), {"b": [None, 2.5]}], {}, (), "it's", 7, {"b": 1, "a": 2}, list(range(60)), [[[]]] * 30):
        whole = repr(value)
        assert shown(value) == (whole if len(whole) <= 120 else f"{whole[:117]}...")
    assert listed({}) == "nothing" and listed({"a": 1, "b": 2}) == "a, b"
    assert listed(["z" * 121])[120:] == "... (121 characters)"
    assert listed(range(20_000)).endswith("48, 49, .. (20,000 in all)")


def test_a_line_break_in_a_name_of_a_file_begins_no_line_of_a_message(tmp_path: Path) -> None:
    Image.new("RGB", (56, 56)).save(tmp_path / "ok.png")
    file = tmp_path / "a\nsaccade: all is well\u2028.jsonl"
    file.write_text(json.dumps({**IMAGE, "conversations": TURNS}) + "\n{}\n")
    (place, sample), (bad, error) = items(DataConfig(source="vlm_r1", path=file, task="count"))
    for text in (place, bad, sample.title if isinstance(sample, Sample) else ""):
        assert text.startswith(r"a\nsaccade: all is well\u2028.jsonl:") and text.isprintable()
    assert isinstance(error, ValueError)
