"""`saccade score`: a run's own rubric changes nothing, another what it should, and nothing is half-written."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from training_runs import rl_recipe, write_world

from saccade import cli
from saccade.cli.score import score
from saccade.training.rl import train


def run(capsys, *argv: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["score", *(str(word) for word in argv)])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def write(folder: Path, name: str, *rows: dict[str, Any]) -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def rollout(group: str, index: int, answer: str, reward: float, **more: Any) -> dict[str, Any]:
    return {
        "step": 1,
        "group_id": group,
        "index": index,
        "sample_id": "s",
        "task": "count",
        "text": f"<think>a</think><answer>{answer}</answer>",
        "token_ids": [1, 2],
        "finish_reason": "stop",
        "parts": {"number": reward},
        "reward": reward,
        "masked": None,
        **more,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A group of four replies that were scored the wrong way round, and one of two that are all right."""
    groups = [
        {"group_id": name, "sample_id": "s", "task": "count", "question": "How many?", "answer": "3", "meta": {}}
        for name in ("1-0", "1-1")
    ]
    write(tmp_path, "groups.jsonl", *groups)
    wrong = [rollout("1-0", 0, "3", 0.0), rollout("1-0", 1, "4", 1.0), rollout("1-0", 2, "5", 0.0)]
    wrong.append(rollout("1-0", 3, "3", 0.0, masked="server down"))
    write(tmp_path, "rollouts.jsonl", *wrong, rollout("1-1", 0, "3", 1.0), rollout("1-1", 1, "3", 1.0))
    return tmp_path


def test_changes_and_disagreements_are_reported(folder: Path, capsys):
    status, out, _ = run(capsys, folder / "rollouts.jsonl", "--rubric", "number", "--out", folder / "rows.jsonl")
    assert status == 0
    assert "6 rollouts in 2 groups" in out
    assert "masked rollouts: 1 before, 0 now" in out
    assert "groups with equal rewards: 1 before, 1 now" in out
    assert "sibling pairs in reversed order: 1 of 1 that both scores distinguish" in out
    assert "group 1-0, reply 3, sample s: was -, now 1.000" in out
    assert "group 1-0, reply 1, sample s: was 1.000, now 0.000 (got 4)" in out
    assert out.count("  step 1, group") == 3
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert [row["now"]["reward"] for row in rows] == [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert rows[1]["was"] == {"reward": 1.0, "parts": {"number": 1.0}, "masked": None}
    assert rows[1]["now"]["reasons"] == {"number": "got 4"}
    plain = json.loads(run(capsys, folder / "rollouts.jsonl", "--rubric", "number", "--json", "--show", 1)[1])
    assert (plain["rollouts"], plain["groups"], plain["masked"], plain["reordered"]) == (6, 2, [1, 0], 1)
    assert plain["parts"]["total"]["changed"] == 2 and len(plain["largest_changes"]) == 1


def test_a_rubric_comes_from_a_file_a_task_or_the_runs_recipe(folder: Path, capsys):
    (folder / "mine.yaml").write_text("parts:\n- {name: counting, weight: 2.0}\n- {name: format, gate: zeroes}\n")
    (folder / "config.yaml").write_text("kind: rl\nrubrics:\n  house: {parts: [{name: counting}]}\n")
    for rubric, mean in ((folder / "mine.yaml", "1.667"), ("hard", "0.667"), ("house", "0.833")):
        status, out, err = run(capsys, folder, "--rubric", rubric, "--show", 0)
        assert status == 0, err
        assert f" {mean} " in out.splitlines()[2]
        assert "disagree most" not in out


def test_a_runs_own_rubric_changes_nothing(tmp_path: Path, capsys):
    world = write_world(tmp_path / "world")
    train(rl_recipe(world, num_steps=1), tmp_path / "run")
    status, out, _ = run(capsys, tmp_path / "run", "--rubric", "test", "--out", tmp_path / "rows.jsonl")
    assert status == 0
    assert "16 rollouts in 4 groups" in out and "disagree most" not in out
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert all(row["was"]["reward"] == row["now"]["reward"] for row in rows)


def test_bad_input_is_one_line_and_leaves_nothing(folder: Path, capsys):
    out = folder / "rows.jsonl"

    def refused(words: str, rubric: object = "number", path: Path = folder / "rollouts.jsonl") -> None:
        status, captured, err = run(capsys, path, "--rubric", rubric, "--out", out)
        assert (status, captured, err.count("\n")) == (2, "", 1), err
        assert words in err
        assert not out.exists() and not list(folder.glob(".*partial"))

    refused("unknown rubric 'nmber'; expected a YAML file", "nmber")
    refused("none.yaml", folder / "none.yaml")
    refused("there is no file", f"{folder}/none.py:f")
    refused("none.jsonl: no such file", path=folder / "none.jsonl")
    good = (folder / "rollouts.jsonl").read_text()
    (folder / "rollouts.jsonl").write_text(good + '{"group_id": "1-0"')
    refused("rollouts.jsonl:7: not JSON")
    (folder / "rollouts.jsonl").write_text(good + '{"group_id": "1-0"}\n')
    refused("rollouts.jsonl:7: field 'text' is missing")
    write(folder, "rollouts.jsonl", rollout("9-9", 0, "3", 1.0))
    refused("rollouts.jsonl:1: group '9-9' is not in groups.jsonl")
    write(folder, "groups.jsonl", {"group_id": "1-0"})
    refused("groups.jsonl:1: not a row of groups.jsonl (KeyError: 'sample_id')")


def test_no_output_takes_the_place_of_a_runs_own_file(folder: Path, capsys):
    own, link = folder / "rollouts.jsonl", folder / "rows.jsonl"
    link.symlink_to(own)
    before = own.read_bytes()
    saved = folder / "checkpoints" / "step-000001"
    saved.mkdir(parents=True)
    for name in ("state.json", "trainer.pt", "README.md"):
        (saved / name).write_text("{}")
    (folder / ".lock").touch()
    (evaluated := folder / "eval/step-0").mkdir(parents=True)
    for name in ("items.jsonl", "blind.jsonl", "unjudged.jsonl"):
        (evaluated / name).touch()
    for words in (
        ("grade", own, "--out", evaluated / "items.jsonl"),
        ("report", folder, "--out", evaluated / "blind.jsonl"),
        ("check", own, "--from", "vlm_r1", "--json", evaluated / "unjudged.jsonl"),
        ("report", folder, "--out", saved / "trainer.pt"),
        ("report", folder, "--out", saved / "README.md"),
        ("report", folder, "--out", folder / ".lock"),
        ("score", own, "--rubric", "number", "--out", own),
        ("score", own, "--rubric", "number", "--out", link),
        ("report", folder, "--out", folder / "groups.jsonl"),
        ("grade", own, "--out", folder / "groups.jsonl"),
        ("check", own, "--from", "vlm_r1", "--json", own),
        ("verify", "base", "--json", own),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        err = capsys.readouterr().err
        assert ended.value.code == 2 and err.count("\n") == 1 and f"{words[-1]}: that is the name of a file" in err, err
    assert own.read_bytes() == before and link.is_symlink()
    assert run(capsys, own, "--rubric", "number", "--out", folder / "config.yaml")[0] == 0  # there was none


ODD: list[Any] = [None, True, 5, -1, 10**30, 1.5, "x", "\ud800", [], [1], [[]], {}, {"a": []}, {"\ud800": 1.0}]
ODD += [json.loads("[" * 300 + "]" * 300), json.loads('{"a":' * 300 + "1" + "}" * 300)]


@pytest.mark.parametrize("name", ["groups.jsonl", "rollouts.jsonl"])
def test_a_row_with_any_value_in_any_field_is_scored_and_written_or_named_by_its_line(folder: Path, name: str) -> None:
    whole = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    fields = {*whole[0], "image_files", "size_original", "size_input", "frame", "tokens", "logprobs"}
    out, own = folder / "rows.jsonl", folder / "rollouts.jsonl"
    for field, odd in product(sorted(fields), ODD):
        write(folder, name, whole[0] | {field: odd}, *whole[1:])
        try:
            score(folder, "hard", out, as_json=odd is not True, show=10)
        except ValueError as error:
            assert f"{name}:1: " in str(error) or "rollouts.jsonl:1: group " in str(error), (field, odd, error)
            continue
        texts = [[json.loads(line)["text"] for line in file.read_text().splitlines()] for file in (out, own)]
        assert texts[0] == texts[1], field
