"""`saccade world`: readers can read its data sets, and its check detects wrong answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from saccade import cli
from saccade.data import DataConfig, open_source
from saccade.data.preflight import preflight
from saccade.world import World
from saccade.world.splits import ALL_TASKS


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    return int(ended.value.code or 0)


def test_a_written_data_set_is_read_back_and_passes_preflight(tmp_path: Path, capsys) -> None:
    out = tmp_path / "set"
    assert run("world", "make", str(out), "-n", "2", "--seed", "5") == 0
    assert (out / "sheet.png").is_file()
    samples = list(open_source(DataConfig(source="vlm_r1", path=out / "train.jsonl")))
    assert [s.task for s in samples] == [task for task in ALL_TASKS for _ in range(2)]
    assert preflight(samples).findings == ()
    made = World().item(5, 1, "refer").sample
    (read,) = [s for s in samples if s.id == made.id]
    assert list(read.answer) == list(made.answer)
    assert read.question.removeprefix("<image>") == made.question


def test_a_full_folder_is_not_written_into(tmp_path: Path, capsys) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    assert run("world", "make", str(tmp_path), "-n", "1") == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_wrong_setting_of_the_world_is_located_on_the_command_line(tmp_path: Path, capsys) -> None:
    assert run("world", "make", str(tmp_path / "a"), "cels=5") == 2
    assert capsys.readouterr().err == "saccade: command line: unknown key 'cels'; did you mean 'cells'?\n"


def test_check_counts_right_answers_and_fails_on_a_wrong_one(capsys, monkeypatch) -> None:
    argv = ("world", "check", "-n", "3", "--split", "test", "--task", "count", "--task", "refer")
    assert run(*argv) == 0
    assert capsys.readouterr().out.count("3 of 3 right") == 2
    from saccade.world import checker

    monkeypatch.setitem(checker.ANSWERS, "count", lambda sample, scene: -1)
    assert run(*argv) == 1
    assert "the pixels say -1" in capsys.readouterr().err
