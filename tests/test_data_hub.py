"""Data sets of the hub: which of their own files hold a split, and that they cannot name anything else."""

from __future__ import annotations

import glob
import io
import json
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saccade.data import DataConfig, open_source
from saccade.data.hub_sets import _matching
from tests.hub_cache import hub_set


def card(*configs: dict[str, Any]) -> dict[str, str]:
    """A README.md; JSON is YAML too."""
    listed = json.dumps([{"config_name": "default"} | one for one in configs])
    return {"README.md": f"---\nlicense: mit\nconfigs: {listed}\n---\n# A set\n"}


def rows(*questions: str) -> str:
    return "".join(json.dumps({"question": one, "answer": "a"}) + "\n" for one in questions)


def parquet(*questions: str) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"question": one, "answer": "a"} for one in questions]), file)
    return file.getvalue()


def asked(name: str, **more: Any) -> list[str]:
    return [sample.question for sample in open_source(DataConfig(source="table", hub=name, **more))]


SPLIT_BY_CARD = card(
    {"data_files": [{"split": "train", "path": ["in/a*.jsonl", "./b.jsonl"]}, {"split": "x", "path": "**/c.jsonl"}]}
)
FILES = {
    "in/a1.jsonl": rows("1"),
    "in/a2.jsonl": rows("2"),
    "b.jsonl": rows("3"),
    "c.jsonl": rows("4"),
    "d/c.jsonl": rows("5"),
}


@pytest.mark.parametrize(
    ("files", "copy", "split", "expected"),
    [
        (SPLIT_BY_CARD | FILES, None, None, ["1", "2", "3"]),
        (SPLIT_BY_CARD | FILES, None, "x", ["4", "5"]),
        (card({"data_files": "*.jsonl", "data_dir": "in"}) | FILES, None, None, ["1", "2"]),
        (card({"data_dir": "d"}) | FILES, None, None, ["5"]),
        (card({"config_name": "o", "data_files": "b.jsonl"}, {"config_name": "p", "default": True}), None, None, None),
        ({"README.md": "# A set", "stuff.jsonl": rows("1"), "dataset_infos.json": "{}"}, None, None, ["1"]),
        ({"train.jsonl": rows("1"), "a-val.jsonl": rows("2"), "contest.jsonl": rows("3")}, None, "validation", ["2"]),
        ({"train/a.csv": "question,answer\nq,a\n", "test/train.csv": "question,answer\nr,a\n"}, None, None, ["q"]),
        (
            {f"data/{name}-of-00002.parquet": parquet(name) for name in ("train-00000", "train-00001", "o-00000")}
            | {"data/train.jsonl": rows("no")},
            None,
            None,
            ["train-00000", "train-00001"],
        ),
        ({"a.tar": b"x", "metadata.jsonl": rows("no")}, {"default/train/0000.parquet": parquet("1")}, None, ["1"]),
        (card({"config_name": "o"}) | {"a.tar": b"x"}, {"o/test/0000.parquet": parquet("1")}, "test", ["1"]),
    ],
)
def test_a_split_is_read_from_the_files_of_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Any, copy: Any, split: str | None, expected: list[str]
) -> None:
    name = hub_set(tmp_path, monkeypatch, files, copy)
    if expected is None:
        with pytest.raises(ValueError, match="no rows of split 'train'"):
            asked(name)
    else:
        assert asked(name, split=split) == expected


@pytest.mark.parametrize(
    "place",
    [
        *(
            "http://127.0.0.1:1/x.jsonl",
            "hf://datasets/other/set/x.jsonl",
            "file:///SECRET",
            "SECRET",
            "../../../../s.jsonl",
        ),
        *("in/../../../../../s.jsonl", "../../../../*.jsonl", "zip://*.jsonl::http://127.0.0.1:1/x.zip"),
    ],
)
def test_what_a_set_names_outside_itself_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "s.jsonl").write_text(rows("secret"))
    place = place.replace("SECRET", str(tmp_path / "s.jsonl"))
    folder, _, name = place.rpartition("/")
    train = [{"split": "train", "path": ["b.jsonl", place]}]
    for given in ({"data_files": place}, {"data_files": train}, {"data_dir": folder, "data_files": name}):
        found = hub_set(tmp_path, monkeypatch, card(given) | FILES, None)
        with pytest.raises(
            ValueError,
            match=r"^hub 'own/set': README.md(: 'data_dir' is| names) '.*, expected (a folder|files of the data)",
        ) as error:
            asked(found)
        assert "\n" not in str(error.value)
    found = hub_set(tmp_path, monkeypatch, card({"config_name": folder, "data_files": "no.jsonl"}), None)
    with pytest.raises(ValueError, match="there are no rows of split 'train'"):
        asked(found)


def test_one_configuration_needs_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"config_name": "default", "data_files": "b.jsonl"}
    files = {"README.md": f"---\nconfigs: {json.dumps(one)}\n---\n", "a.jsonl": rows("no"), "b.jsonl": rows("1")}
    assert asked(hub_set(tmp_path, monkeypatch, files, None)) == ["1"]


ALIASES = "\n".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}' if i else 'x'] * 10)}]" for i in range(12))
"""Written out, the last of them has 10^12 items."""


def test_patterns_match_as_those_of_a_shell_also_in_deep_folders(tmp_path: Path) -> None:
    random, names = Random(1), set[Path]()
    for _ in range(200):
        folders = [random.choice(["a", "b", ".h", "train"]) for _ in range(random.randint(0, 4))]
        names.add(Path(*folders, random.choice(["x.jsonl", ".z.jsonl", "q1.jsonl", "q2.csv"])))
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    parts = ["**", "*", "a", "*.jsonl", "q?.*", ".h", "tr*", "[ab]", ".*", "x.jsonl", "a**"]
    for _ in range(500):
        pattern = "/".join(random.choice(parts) for _ in range(random.randint(1, 5))).replace("**/**/", "**/")
        found = glob.glob(pattern.replace("**/**/", "**/"), root_dir=tmp_path, recursive=True)
        expected = {one for one in found if (tmp_path / one).is_file() and not one.endswith("/")}
        here = [one for one in _matching(sorted(names), pattern.replace("**/**/", "**/")) if (tmp_path / one).is_file()]
        assert set(here) == expected and len(here) == len(expected), pattern
    deep = [Path(*["a"] * 2_000, "x.jsonl")]
    began = time.process_time()
    assert _matching(deep, "**/*/" * 40 + "*.jsonl") == [str(deep[0])]
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize(
    ("front", "words"),
    [
        ("a: [", r"README.md: not YAML \(while parsing"),
        ("configs: 5", r"'configs' has '5', expected a list with a config_name in each; download"),
        (f"{ALIASES}\nconfigs: [{{config_name: *a11}}]", r"'configs' has \{'config_name': \[\[\["),
        (f"{ALIASES}\nconfigs: [{{config_name: a, data_dir: *a11}}]", r"'data_dir' is \[\[\[.*expected a folder"),
        (f"{ALIASES}\nconfigs: [{{config_name: a, data_files: [{{split: *a11, path: x}}]}}]", r"'data_files' has"),
        ("configs: [{config_name: a, data_dir: 'd*'}]", r"'data_dir' is 'd\*', expected a folder"),
        ('configs: [{config_name: a, data_dir: "d\\0"}]', r"README.md names 'd\\x00.*, expected files of the data set"),
        (
            f"configs: [{{config_name: a, data_files: '{'[' * 400}x'}}]",
            r"a pattern of 401 characters, expected 2,000 patterns of 300",
        ),
        (
            f"configs: [{{config_name: a, data_files: {['x'] * 2_001}}}]",
            r"names 2,001 patterns, expected 2,000 patterns of 300",
        ),
        (f"configs: [{{config_name: a, data_files: '{'**/*/' * 20}x'}}]", r"there are no rows of split 'train'"),
        (f"configs: [{','.join('a' * 600_000)}]", r"README.md: not YAML \(1,2\d\d,\d+ characters, expected"),
        (f"configs: [{','.join(f'{{config_name: c{i}}}' for i in range(900))}]", r"\(900 in all\); download"),
        ("configs: {data_files: b.jsonl}", r"'configs' has \{'data_files': 'b.jsonl'\}, expected a list with"),
        ('configs: {config_name: "a\\nb"}', r"'configs' has \{'config_name': 'a\\nb'\}, expected a list with"),
        (
            'configs: {config_name: a, data_dir: "\\ud800"}',
            r"README.md names '\\ud800.*, expected files of the data set",
        ),
        (
            'configs: {config_name: a, data_files: [{split: "a\\nb", path: x}]}',
            r"'data_files' has \{'split': 'a\\nb', 'path': 'x'\}, expected names of files, or split and path",
        ),
        ("configs: [{config_name: a, data_files: {train: x}}]", r"'data_files' has \{'train': 'x'\}, expected names"),
        ("configs: [{config_name: a}, {config_name: b}]", "there is no default configuration; it has a, b; download"),
        ("configs: [{config_name: a, data_files: [{split: test, path: b.jsonl}]}]", "it has the splits test; use one"),
    ],
)
def test_a_set_that_cannot_be_read_is_one_line_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, front: str, words: str
) -> None:
    name = hub_set(tmp_path, monkeypatch, {"README.md": f"---\n{front}\n---\n"} | FILES, None)
    with pytest.raises(ValueError, match=f"^hub 'own/set': .*{words}") as error:
        asked(name)
    assert "\n" not in str(error.value)


def test_a_name_that_is_not_there_and_a_missing_package_have_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_set(tmp_path, monkeypatch, {}, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no" / "such").mkdir(parents=True)
    with pytest.raises(
        ValueError, match=r"^hub 'no/such': cannot be read \(.*set 'path'; to read the folder no/such, set"
    ):
        asked("no/such")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        ValueError, match="'huggingface_hub', which is not installed; run 'pip install huggingface_hub'"
    ):
        asked("own/set")
