"""`saccade grade`: every row gets a verdict, a route and a time; bad rows are named and leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saccade import cli
from saccade.disk import sweep_beside
from tests.chat_server import Answer, chat_server

ROWS = [
    {"prediction": "<think>x</think><answer>Final Answer: B</answer>", "gold": "B", "options": ["red", "blue"]},
    {"prediction": "12 cm", "gold": "120 mm", "id": 7, "expected": "right"},
    {"prediction": "3.14", "gold": "3.141", "kind": "math_vision", "expected": "wrong"},
    {"prediction": "1.24", "gold": "1.2", "kind": "mathvista_float", "precision": 1},
    {"prediction": "no", "gold": None},
    {"prediction": "", "gold": "5"},
    {"prediction": "\ud800 yes", "gold": "no"},
    {"prediction": 5, "gold": 5},
]


def run(*argv: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["grade", *map(str, argv)])
    return int(ended.value.code or 0)


def write(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_are_graded_in_order_and_summed_up(tmp_path, capsys):
    write(tmp_path / "pairs.jsonl", ROWS)
    assert run(tmp_path / "pairs.jsonl", "--out", tmp_path / "graded.jsonl") == 0
    graded = [json.loads(line) for line in (tmp_path / "graded.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in graded] == [
        *("right", "right", "right", "right", "ungradable", "wrong", "wrong", "right")
    ]
    assert [row["route"] for row in graded][:4] == [
        "choice",
        "math: unit",
        "number: math_vision",
        "number: mathvista_float",
    ]
    assert (graded[0]["answer"], graded[0]["found"], graded[1]["id"]) == ("B", "answer block", 7)
    assert all(0 <= row["seconds"] < 5 and row["gold"] == ROWS[i]["gold"] for i, row in enumerate(graded))
    captured = capsys.readouterr().out
    assert "5 right, 2 wrong, 1 ungradable of 8" in captured and "1 of 2 as expected" in captured
    assert "expected wrong, got right (number: math_vision)" in captured and "math: unit" in captured
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graded.jsonl", "pairs.jsonl"]


def test_without_a_file_the_rows_go_to_standard_output_and_the_table_elsewhere(tmp_path, capsys):
    write(tmp_path / "pairs.jsonl", ROWS[:2])
    assert run(tmp_path / "pairs.jsonl") == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["verdict"] for line in out.splitlines()] == ["right", "right"]
    assert "2 right, 0 wrong" in err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("3", "got a int, expected an object"),
        ('{"prediction": "x"}', "no 'gold'; got the keys 'prediction'"),
        ('{"gold": "x"}', "no 'prediction'"),
        ('{"prediction": ["x"], "gold": "x"}', 'prediction is ["x"], expected text'),
        ('{"prediction": "x", "gold": "x", "kind": "maths"}', "got the kind 'maths', expected one of auto"),
        ('{"prediction": "x", "gold": "x", "options": "ab"}', 'options is "ab", expected a list'),
        ('{"prediction": "x", "gold": "x", "precision": "1"}', "precision is '1'"),
        ('{"prediction": "x", "gold": "x", "kind": "mathvista_float"}', 'add "precision": 1 or 2'),
        ('{"prediction": "x", "gold": "x", "expected": true}', "it may be right, wrong or ungradable"),
        ('{"prediction": "x", "gold": "x", "knd": "math"}', "got the key 'knd'; did you mean 'kind'"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line_and_nothing_is_left(tmp_path, capsys, line, says):
    (tmp_path / "pairs.jsonl").write_text(json.dumps(ROWS[0]) + "\n\n" + line + "\n")
    assert run(tmp_path / "pairs.jsonl", "--out", tmp_path / "graded.jsonl") == 2
    err = capsys.readouterr().err
    assert f"{tmp_path}/pairs.jsonl:3: " in err and says in err
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_files_that_cannot_be_are_refused(tmp_path, capsys):
    pairs = tmp_path / "pairs.jsonl"
    assert run(pairs) == 2 and "there is no such file" in capsys.readouterr().err
    pairs.write_text("\n")
    assert run(pairs) == 2 and "no rows" in capsys.readouterr().err
    pairs.write_bytes(b'{"prediction": "\xff", "gold": "1"}\n')
    assert run(pairs) == 2 and "no UTF-8" in capsys.readouterr().err
    assert run(pairs, "--out", pairs) == 2 and "other than the input" in capsys.readouterr().err
    assert run(pairs, "--judge-url", "http://127.0.0.1:9") == 2 and "go together" in capsys.readouterr().err


def test_the_judge_is_asked_about_what_the_rules_reject_and_the_key_comes_from_the_environment(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    rows = [
        {"prediction": "right", "gold": "right", "kind": "text"},
        {"prediction": "yep", "gold": "right", "kind": "text"},
    ]
    write(tmp_path / "pairs.jsonl", rows)
    with chat_server(lambda i, body: Answer("VERDICT: RIGHT")) as server:
        options = ("--judge-url", server.url, "--judge-model", "judge", "--judge-cache", tmp_path / "judge.sqlite")
        assert run(tmp_path / "pairs.jsonl", *options) == 0
        assert run(tmp_path / "pairs.jsonl", *options) == 0
    out = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["verdict"], row["route"]) for row in out] == [("right", "text"), ("right", "judge")] * 2
    assert len(server.requests) == 1 and server.requests[0]["headers"]["authorization"] == "Bearer sesame"


def test_rows_stream_and_are_not_gathered(tmp_path):
    from saccade.grading.pairs import Pair, grade_pairs

    taken = []

    def pairs():
        for i in range(1000):
            taken.append(i)
            yield Pair({"gold": "1"}, "1", "number", (), None)

    rows = grade_pairs(pairs(), workers=2)
    assert next(rows)["verdict"] == "right" and len(taken) <= 17
    assert sum(1 for _ in rows) == 999


def test_what_a_killed_grade_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [f".[a]*.jsonl.{pid}.partial" for pid in (ended.pid, os.getppid())] + [f".b.jsonl.{ended.pid}.partial"]
    for name in names:
        (tmp_path / name).touch()
    sweep_beside(tmp_path / "[a]*.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
