"""Any row becomes samples or a named error, in every format."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property_search import examples
from test_data_formats import LLAVA_COT, jsonl, png, rec

from saccade.data import READERS, DataConfig
from saccade.data.formats import TABLES
from saccade.data.preflight import preflight
from saccade.data.sources import items
from saccade.types import Sample

_LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("a.png"))
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "value",
                    "from",
                    "role",
                    "content",
                    "bytes",
                    "path",
                    "type",
                    "text",
                    "options",
                    "image_index",
                    "reward",
                ]
            ),
            inner,
        )
    ),
    max_leaves=8,
)
ROWS: dict[str, dict[str, Any]] = {
    "vlm_r1": rec(task="refer", answer=[1, 2, 3, 4], meta={}, accu_reward_method="mcq"),
    "llava": LLAVA_COT,
    "easy_r1": {"image": "a.png", "problem": "?", "answer": "4", "choices": ["3", "4"], "ground_truth": "B"},
    "math_vision": {"id": "1", "image": "a.png", "question": "?", "options": ["1"], "answer": "A", "level": 1},
    "refcoco": {"image": "a.png", "problem": "?", "normal_caption": "a", "solution": [1, 2, 3, 4]},
    "saccade": {"id": "1", "task": "count", "question": "?", "answer": 3, "images": ["a.png"], "meta": {}},
    "table": {"image": "a.png", "question": "?", "answer": "A", "options": ["3", "4"], "task": "choice", "system": "."},
    "trl": {
        "images": ["a.png"],
        "prompt": [{"role": "user", "content": "<image>?"}],
        "solution": "4",
        "completion": "x",
    },
    "verl": {
        "images": [{"path": "a.png"}],
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}],
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"split": "train", "index": 3},
    },
    "ms_swift": {
        "messages": [{"role": "user", "content": "<image><ref-object>?"}, {"role": "assistant", "content": "<bbox>"}],
        "images": ["a.png"],
        "objects": {"ref": ["cup"], "bbox": [[1, 2, 3, 4]], "bbox_type": "real", "image_id": [0]},
        "solution": "4",
    },
    "gui_r1": {
        "image": "a.png",
        "instruction": "?",
        "gt_action": "click",
        "gt_bbox": [0.1, 0.2, 0.3, 0.4],
        "history": "",
    },
}


@settings(max_examples=examples(120), suppress_health_check=[HealthCheck.too_slow])
@given(source=st.sampled_from(TABLES), data=st.data())
def test_any_row_becomes_samples_or_a_named_error_and_can_be_checked(
    tmp_path_factory: pytest.TempPathFactory, source: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(png())
    row = ROWS[source] | data.draw(st.dictionaries(st.sampled_from(sorted(ROWS[source])), _VALUES, max_size=2))
    path = jsonl(folder / "rows.jsonl", row)
    for place, found in items(DataConfig(source=source, path=path)):
        assert place == "rows.jsonl:1"
        assert isinstance(found, Sample | ValueError)
        if isinstance(found, Sample):
            assert isinstance(found.task, str)
            assert isinstance(found.question, str)
        assert preflight([(place, found)]).samples == 1


def test_every_format_is_either_a_table_or_has_its_own_files() -> None:
    assert set(READERS) - set(TABLES) == {"geometry3k", "coco", "voc", "yolo"}
