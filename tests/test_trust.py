"""What a row of data, a reply or a run of others may cause: no address, key, program or file is ever its choice."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from training_runs import rl_recipe, write_world

from saccade import cli
from saccade.config import dump
from saccade.report.heldout import sample_items
from saccade.report.pictures import Pictures, picture
from saccade.rewards import REWARDS, check_row, score_all
from saccade.rewards.judged import Server
from saccade.rewards.table import REACHES_OUT, WRAPPERS, _types
from saccade.runs.files import file_inside, read_run
from saccade.runs.rescore import read_samples
from saccade.tasks import TASKS
from saccade.types import Completion, Sample
from tests.chat_server import Answer, chat_server


def run(*argv: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in argv])
    return int(ended.value.code or 0)


def judge(folder: Path, url: str) -> dict[str, Any]:
    server = {"api_key_file": str(folder / "secret.txt"), "cache": str(folder / "written" / "pwn.sqlite")}
    return {"url": url, "model": "x", "server": server}


def attacks(folder: Path, url: str) -> list[Any]:
    """Rewards of a row that would reach out."""
    options, own = judge(folder, url), f"{folder / 'evil.py'}:f"
    inner = {"accuracy": "llm_judge", "options": options}
    return [
        {"name": "llm_judge", "options": options},
        {"name": "hard", "options": inner},
        {"name": "cosine_length", "options": {**inner, "max_length": 9}},
        {"name": "hard", "options": {"accuracy": "hard", "options": inner}},
        own,
        {"name": own},
        {"name": "hard", "options": {"accuracy": own}},
        {"name": "cosine_length", "options": {"accuracy": own, "max_length": 9}},
        {"name": "hard", "options": {"accuracy": "hard", "options": {"accuracy": own}}},
        {"name": "hard", "options": {"accuracy": {"name": own}}},
        {"name": "exact_text", "options": {"where": {"server": options}}},
        {"name": "exact_text", "options": {"server": options}},
        {"name": "exact_text", "server": options},
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("hf_TOPSECRET")
    (tmp_path / "evil.py").write_text("open(__file__ + '.ran', 'w')\n\ndef f(completion, sample):\n    return 1.0\n")
    return tmp_path


def test_a_row_that_names_a_reward_which_reaches_out_is_refused_and_reaches_nothing(folder: Path) -> None:
    with chat_server(lambda i, body: Answer("VERDICT: RIGHT")) as server:
        named = attacks(folder, server.url)
        for reward in named:
            sample = Sample("s", (), "q?", "3", "text", {"reward": reward, "place": "d.jsonl:7"})
            with pytest.raises(ValueError, match=r"^d\.jsonl:7: sample 's': "):
                check_row(sample)
            for rubric in TASKS["text"].rubrics:
                reply = Completion("<think>t</think><answer>4</answer>")
                (score,) = score_all([(TASKS["text"].rubric(rubric), reply, sample)])
                assert score.masked is not None and score.value == 0.0
        assert server.requests == []
    assert sorted(path.name for path in folder.iterdir()) == ["evil.py", "secret.txt"]


def test_check_and_rl_name_the_row_and_write_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = write_world(folder / "world", rows=3)
    rows = [json.loads(line) for line in (world / "data.jsonl").read_text().splitlines()]
    with chat_server(lambda i, body: Answer("VERDICT: RIGHT")) as server:
        rows[1]["meta"] = {"reward": attacks(folder, server.url)[1]}
        rows[2]["accu_reward_method"] = f"{folder / 'evil.py'}:f"
        (world / "data.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        assert run("check", world / "data.jsonl", "--from", "vlm_r1") == 1
        said = capsys.readouterr().out
        assert "data.jsonl:2: sample 'row1': got reward 'llm_judge'; a row may name one of REWARDS only" in said
        assert "data.jsonl:3" in said
        recipe = rl_recipe(world, rubrics={}, stages=[{"max_new_tokens": 2, "group_size": 2}])
        (world / "rl.yaml").write_text(dump(recipe))
        assert run("rl", world / "rl.yaml", "--out", folder / "run") == 2
        assert "data.jsonl:2: sample 'row1'" in capsys.readouterr().err
        assert server.requests == []
    assert not (folder / "run").exists() and not (folder / "written").exists()
    assert not (folder / "evil.py.ran").exists()


def test_rows_nested_without_end_are_refused_in_one_line() -> None:
    reward: dict[str, Any] = {"accuracy": "exact_text"}
    for _ in range(400):
        reward = {"accuracy": "hard", "options": reward}
    with pytest.raises(ValueError, match="nested more than 3 deep"):
        check_row(Sample("s", (), "q?", "3", "text", {"reward": {"name": "hard", "options": reward}}))


def test_every_reward_that_rows_may_name_takes_plain_options() -> None:
    """A new reward with an option for a server or a path fails here until it is one of those that reach out."""

    def plain(hint: Any) -> bool:
        if hint in (int, float, str, bool, type(None)):
            return True
        parts = typing.get_args(hint)
        if typing.get_origin(hint) is typing.Annotated:
            return plain(parts[0])
        return typing.get_origin(hint) is typing.Literal or (bool(parts) and all(map(plain, parts)))

    addresses = ("url", "file", "path", "server", "model", "key", "cache", "command", "module")
    for name, function in REWARDS.items():
        if name in REACHES_OUT:
            continue
        for option in _types(function):
            hint = typing.get_type_hints(function, include_extras=True)[option]
            assert plain(hint) or (name in WRAPPERS and option == "options"), (name, option)
            assert not any(word in option for word in addresses), (name, option)
    assert {name for name in WRAPPERS if name not in REACHES_OUT} == {"hard", "cosine_length"}
    assert "api_key_file" in Server.model_fields, "what the judge opens is why rows may not name it"


def test_rows_of_a_run_name_images_of_that_run_only(tmp_path: Path) -> None:
    (tmp_path / "run" / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "run" / "images" / "0123456789abcdef.png")
    (tmp_path / "run" / "link.png").symlink_to(tmp_path / "secret.png")
    run_dir = tmp_path / "run"
    assert len(read_run(run_dir).images("0123456789abcdef")) == 1
    outside = ["../secret.png", str(tmp_path / "secret.png"), "images/../../secret.png", "link.png", "a\0b", 5, None]
    for name in outside:
        assert file_inside(run_dir, name) is None, name
        assert read_run(run_dir).images([name]) == []  # type: ignore[list-item]  # rows may hold anything
    assert read_run(run_dir).images("../../secret") == []
    row = {"step": 1, "group_id": "g", "sample_id": "s", "task": "text", "question": "q?", "answer": "3"}
    (run_dir / "groups.jsonl").write_text(json.dumps(row | {"image_files": outside}) + "\n")
    assert read_samples(run_dir / "groups.jsonl")["g"].images == ()
    warnings: list[str] = []
    sample = {"sample_id": "s", "task": "text", "split": "x", "question": "q?", "gold": "3", "replies": {}}
    (item,) = sample_items([sample | {"image": "../secret.png"}], run_dir, Pictures(), warnings)
    assert item["img"] == [] and len(warnings) == 1
    assert picture(file_inside(run_dir, "images/0123456789abcdef.png")) is not None
