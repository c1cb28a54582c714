"""`saccade new`, the first screen, and words that are no verb."""

from __future__ import annotations

import base64
import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from saccade import cli
from saccade.cli.options import load_recipe
from saccade.data import DataConfig, hub
from saccade.data.guess import guess
from saccade.data.images import is_picture
from saccade.data.sources import items


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    return int(ended.value.code or 0)


@pytest.fixture()
def picture(tmp_path: Path) -> str:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "one.png")
    return "one.png"


def rows_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["rl", "sft", "eval"])
@pytest.mark.parametrize("model", ["base", "Qwen/Qwen2.5-VL-3B-Instruct"])
def test_a_new_recipe_is_valid_and_reads_the_data_it_was_made_for(
    kind: str, model: str, picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows_file(Path("cells.csv"), [{"file": picture, "prompt": "How many cells?", "label": n} for n in range(1, 5)])
    assert run("new", kind, "--from", "cells.csv", "--model", model) == 0
    recipe: Any = load_recipe(f"cells_{kind}.yaml")
    (entry,) = recipe.data
    assert entry.source == "table"
    assert entry.columns == {"image": "file", "question": "prompt", "answer": "label"}
    assert entry.path == (tmp_path / "cells.csv")
    assert run("new", kind, "--from", "cells.csv") == 2, "an existing file is never overwritten"


@pytest.mark.parametrize("kind", ["rl", "sft", "eval"])
def test_without_data_the_recipe_is_a_valid_beginning(kind: str, tmp_path: Path) -> None:
    assert run("new", kind, "--out", str(tmp_path / "my.yaml")) == 0
    assert load_recipe(str(tmp_path / "my.yaml")).model_dump()["kind"] == kind


@pytest.mark.parametrize(
    ("row", "source", "task"),
    [
        ({"image": "one.png", "prompt": "Where is it?", "solution": [1, 2, 30, 40]}, "trl", "refer"),
        (
            {"prompt": [{"role": "user", "content": "2 + 2?"}], "reward_model": {"ground_truth": "4"}},
            "verl",
            "free_form",
        ),
        ({"img": "one.png", "Query": "Which?", "gold": "B", "A": "red", "B": "blue"}, "table", "choice"),
        (
            {
                "id": 1,
                "image": "one.png",
                "conversations": [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": "3"}],
            },
            "llava",
            "free_form",
        ),
    ],
)
def test_the_format_is_found_with_its_images_and_tasks(
    row: dict[str, Any], source: str, task: str, picture: str, tmp_path: Path
) -> None:
    found = guess(rows_file(tmp_path / "rows.jsonl", [row] * 3))
    assert (found.config.source, set(found.tasks)) == (source, {task})
    pictured = any(key in row for key in ("image", "img"))
    assert all(bool(sample.images) == pictured for sample in found.samples), "images are never left out"


def test_rows_that_no_format_reads_are_refused_with_what_each_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no format reads its rows(?s:.*)table: .*question"):
        guess(rows_file(tmp_path / "rows.jsonl", [{"foo": 1}]))


def test_the_first_screen_cuts_no_word_and_fits(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for word in ("-h", "--help"):
        assert run(word) == 0
        screen = capsys.readouterr().out
        assert "..." not in screen.split("Commands:")[1]
        assert len(screen.splitlines()) <= 45
        assert all(f"  {verb} " in screen for verb in cli.VERBS)


@pytest.mark.parametrize(
    ("word", "hint"), [("train", "sft or rl"), ("evla", "eval"), ("Finetune", "sft"), ("xyzzy", "saccade --help")]
)
def test_a_word_that_is_no_verb_names_the_nearest(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(word) == 2
    assert hint in capsys.readouterr().err


def test_a_hub_name_without_network_fails_at_once_and_a_cached_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    def slow(*_: Any) -> None:
        time.sleep(5)

    monkeypatch.setattr(hub.socket, "getaddrinfo", slow)
    monkeypatch.setattr(hub, "WAIT_S", 0.1)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub.use_hub.cache_clear()
    (tmp_path / "models--a--cached").mkdir()
    start = time.monotonic()
    hub.refuse_unreachable("a/cached")
    hub.refuse_unreachable(str(tmp_path))
    hub.refuse_unreachable("base")
    with pytest.raises(ValueError, match="not in the hub's cache"):
        hub.refuse_unreachable("a/missing")
    assert time.monotonic() - start < 2
    assert constants.HF_HUB_OFFLINE
    hub.use_hub.cache_clear()


@pytest.mark.parametrize("named", [False, True])
def test_check_and_convert_read_a_csv_with_or_without_its_column_names(
    named: bool, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"file": picture, "prompt": f"How many cells in {n}?", "label": n, "x": "-"} for n in range(1, 5)]
    path = str(rows_file(tmp_path / "cells.csv", rows))
    pairs = ("image=file", "question=prompt", "answer=label")
    options = ("--from", "table", *(word for pair in pairs for word in ("--column", pair))) if named else ()
    assert run("check", path, *options) == 0
    assert "4 rows" in capsys.readouterr().out
    assert run("convert", path, str(tmp_path / "out"), *options) == 0
    assert "4 images" in capsys.readouterr().out
    assert run("check", path, "--from", "table", "--column", "question") == 2
    assert "expected KEY=NAME" in capsys.readouterr().err


def test_sft_learns_from_columns_of_any_name(picture: str, tmp_path: Path) -> None:
    from saccade.training.config import ExampleConfig

    rows_file(tmp_path / "cells.csv", [{"file": picture, "prompt": "How many?", "label": 3}])
    columns: dict[str, str | list[str]] = {"image": "file", "question": "prompt", "answer": "label"}
    entry = ExampleConfig(source="table", path=tmp_path / "cells.csv", columns=columns, reply="gold")
    assert entry.samples().columns == columns
    with pytest.raises(ValueError, match="'columns' is not an option of source 'replies'"):
        ExampleConfig(path=tmp_path / "cells.csv", columns=columns)


@pytest.mark.parametrize(
    ("header", "row", "found"),
    [
        (("picture", "asked", "truth"), ("a.png", "How many dots are there?", "3"), ("picture", "asked", "truth")),
        (("x", "y", "z"), ("How many dots are there?", "a.png", "3"), ("y", "x", "z")),
        (("file", "prompt", "label"), ("a.png", "How many dots are there?", "3"), ("file", "prompt", "label")),
    ],
)
def test_columns_whose_names_say_nothing_are_found_by_what_is_in_them(header, row, found, tmp_path: Path) -> None:
    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(",".join(header) + "\n" + ",".join(row) + "\n")
    seen = guess(tmp_path / "t.csv")
    assert seen.config.columns == dict(zip(("image", "question", "answer"), found, strict=True))
    assert len(seen.samples[0].images) == 1


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_a_column_of_image_files_is_found_or_named_as_not_read(form: str, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (56, 56)).save(file, form)
    columns = {"data": [file.getvalue()] * 3, "question": ["a?", "b?", "c?"], "answer": ["1", "2", "3"]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    seen = guess(tmp_path / "t.parquet")
    assert seen.config.columns == {"image": "data"} and all(len(one.images) == 1 for one in seen.samples)
    found = [item for _, item in items(DataConfig(source="table", path=tmp_path / "t.parquet"))]
    assert all("column 'data' holds an image, which is not read" in str(item) for item in found)


def test_what_holds_an_image_in_another_way_is_one_too() -> None:
    file = io.BytesIO()
    Image.new("RGB", (56, 56)).save(file, "TIFF")
    content, nothing = file.getvalue(), {"bytes": None, "path": None}
    safe = base64.urlsafe_b64encode(b"\xff\xd8\xff" + b"\xfb\xff" * 99).decode()
    pictures = ([None, content], [nothing, {"bytes": content, "path": None}], {"img": content}, safe)
    assert all(map(is_picture, (*pictures, base64.b64encode(content).decode(), b"\0\0\0\x1cftypavif")))
    others: tuple[Any, ...] = (
        b"P1 is which?",
        b"\xff\x0a\x12",
        [],
        [None],
        {"a": 1},
        b"ID3\x04",
        b"RIFF\0\0\0\0WAVE",
        "a b",
        5,
        {"a": "a.png"},
    )
    assert not any(map(is_picture, others))


def test_two_columns_that_could_be_the_answer_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("q,a1,a2\nHow many dots are there?,3,4\n")
    with pytest.raises(ValueError, match="there is no column 'answer'; the row has q, a1, a2"):
        guess(tmp_path / "t.csv")


def test_the_comment_on_steps_counts_the_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for rows, words in ((40, "about 4 passes"), (2000, "about 2 passes"), (160, "about 2 passes")):
        (tmp_path / f"t{rows}.csv").write_text("question,answer\n" + "What is 1 + 1?,2\n" * rows)
        with pytest.raises(SystemExit):
            cli.main(["new", "rl", "--from", f"t{rows}.csv", "--model", "base"])
        assert words in (tmp_path / f"t{rows}_rl.yaml").read_text()


def test_what_several_formats_say_alike_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no format reads its rows") as refused:
        guess(tmp_path)
    lines = str(refused.value).splitlines()[1:]
    said = [line.partition(": ")[2] for line in lines]
    assert len(set(said)) == len(said)
    assert any(line.startswith("  saccade, table: ") for line in lines)


def test_a_column_whose_name_is_no_text_of_utf_8_is_written_into_the_recipe(picture: str, tmp_path: Path) -> None:
    rows = [{"\ud800": picture, "prompt": f"How many cells are in {n}?", "label": str(n)} for n in range(9)]
    path = rows_file(tmp_path / "cells.jsonl", rows)
    assert run("new", "rl", "--from", str(path), "--out", str(tmp_path / "r.yaml"), "--model", "base") == 0
    assert load_recipe(str(tmp_path / "r.yaml")).data[0].columns["image"] == "\ud800"


@pytest.mark.parametrize("kind", ["rl", "sft", "eval"])
@pytest.mark.parametrize(
    "name",
    [
        "a\nsystem_prompt: CHOSEN #.jsonl",
        "a\r\nseed: 7\r\n.jsonl",
        "\x1b]0;x\x07\x9b2J.jsonl",
        "a\u2028seed: 7.jsonl",
        "a\x85seed: 7.jsonl",
        "\U0001f600\u202e 'x' \"y\": {z}.jsonl",
        "#x: y.jsonl",
    ],
)
def test_the_name_of_a_file_writes_no_key_of_a_recipe(kind: str, name: str, picture: str, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": "3"}]
    rows = [json.dumps({"id": str(i), "image": picture, "conversations": turns, "task": "count"}) for i in range(4)]
    (data := tmp_path / name).write_text("\n".join(rows))
    plain, odd, model = tmp_path / "plain.jsonl", tmp_path / "odd.yaml", str(tmp_path / "model\n{#: }")
    plain.write_text("\n".join(rows))
    assert run("new", kind, "--from", str(data), "--out", str(odd), "--model", model) == 0
    assert run("new", kind, "--from", str(plain), "--out", str(tmp_path / "plain.yaml"), "--model", model) == 0
    found, expected = (yaml.safe_load(path.read_text()) for path in (odd, tmp_path / "plain.yaml"))
    assert found["data"][0].pop("path") == str(data) and found["model"]["path"] == model
    assert found.pop("out", "") == ("runs/odd" if kind == "eval" else "")
    expected["data"][0].pop("path")
    expected.pop("out", "")
    assert found == expected
