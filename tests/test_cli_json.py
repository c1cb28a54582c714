"""`--json` prints one object for machines, on every verb that prints a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from report_runs import write_demo, write_run
from test_plan import qwen_config

from saccade import cli

TABLES = (
    *("ap", "check", "coldstart", "data passrate", "demo", "eval", "grade", "plan", "score"),
    *("study", "verify", "watch", "world check"),
)
"""Verbs that print tables, counts or bars."""


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in argv])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def printed(capsys: pytest.CaptureFixture[str], *argv: object, status: int = 0) -> dict[str, Any]:
    """The object that is the whole of standard output."""
    code, out, err = run(capsys, *argv)
    assert code == status, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_every_verb_that_prints_a_table_has_the_option() -> None:
    group: Any = typer.main.get_command(cli.build())
    commands = {name: command for name, command in group.commands.items() if not hasattr(command, "commands")}
    for name, part in group.commands.items():
        commands |= {f"{name} {verb}": command for verb, command in getattr(part, "commands", {}).items()}
    having = {name for name, verb in commands.items() if any("--json" in option.opts for option in verb.params)}
    assert having == set(TABLES)


def test_a_plan_goes_to_standard_output_or_beside_its_tables_to_a_file(tmp_path: Path, capsys) -> None:
    qwen_config("3B").save_pretrained(tmp_path)
    words = ("plan", "vlm_r1_rec_3b", f"model.path={tmp_path}", "--memory", 24)
    found = printed(capsys, *words, "--json", "--check", status=1)
    assert found["fits"] is False and found["stages"][0]["peak"] > found["room"]
    assert printed(capsys, *words, "--json") == found  # the last word
    code, out, _ = run(capsys, *words, "--json", tmp_path / "plan.json")
    assert code == 0 and "does not fit" in out
    assert json.loads((tmp_path / "plan.json").read_text()) == found


def test_a_check_keeps_its_exit_status(tmp_path: Path, capsys) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "How many?", "answer": ""}\n' * 3)
    found = printed(capsys, "check", rows, "--from", "table", "--json", "--show", 1, status=1)
    assert found["safe"] is False and sum(found["counts"].values()) >= 3


def test_grades_are_summed_up(tmp_path: Path, capsys) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prediction": "4", "gold": "4"}\n{"prediction": "5", "gold": "4", "expected": "right"}\n')
    found = printed(capsys, "grade", pairs, "--out", tmp_path / "rows.jsonl", "--json")
    assert (found["rows"], found["right"], found["wrong"], found["ungradable"]) == (2, 1, 1, 0)
    assert (found["expected"], found["as_expected"]) == (1, 0)
    assert sum(route["right"] for route in found["routes"].values()) == 1
    code, out, err = run(capsys, "grade", pairs, "--json")  # rows have standard output
    assert code == 0 and len(out.splitlines()) == 2 and json.loads(err) | {"routes": 0} == found | {"routes": 0}


def test_the_state_of_a_run_is_its_newest_metrics_and_its_alarms(tmp_path: Path, capsys) -> None:
    folder = write_run(tmp_path / "run")
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    found = printed(capsys, "watch", folder, "--json")
    assert found["step"] == last["step"] and found["running"] is False
    assert found["metrics"]["reward/total"] == last["reward/total"]
    assert isinstance(found["alarms"], list)


def test_the_list_of_benchmarks_and_the_check_of_the_world(capsys) -> None:
    names = [row["name"] for row in printed(capsys, "eval", "--list", "--json")["benchmarks"]]
    assert "mathvista" in names and "chartqa" in names
    assert printed(capsys, "study", "--list", "--json")["studies"][0].keys() == {"name", "title", "cpu_minutes"}
    assert run(capsys, "eval", "--describe", "mme", "--json")[0] == 2
    found = printed(capsys, "world", "check", "--split", "train", "--task", "count", "-n", 2, "--json")
    assert found == {"rows": [{"split": "train", "task": "count", "n": 2, "right": 2}], "wrong": []}


def test_the_demo_prints_its_results_and_its_comparisons(tmp_path: Path, capsys, monkeypatch) -> None:
    folder = write_demo(tmp_path / "demo")
    monkeypatch.setattr("saccade.studies.demo.run_demo", lambda *_: folder)  # which takes minutes
    found = printed(capsys, "demo", "--json", "--out", folder)
    assert found["results"]["rows"] and found["demo"]["comparisons"]
