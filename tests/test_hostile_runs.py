"""Recipes that are bombs are refused; report and score read run directories with rows missing or odd."""

from __future__ import annotations

import json
import os
import random
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from report_runs import write_eval, write_run

from saccade.cli import main
from saccade.config import ConfigError, load, yaml_values
from saccade.export.source import find_source
from saccade.report import build_report
from saccade.runs import records
from saccade.runs.files import read_run
from saccade.runs.records import Run
from saccade.runs.wording import wording_of
from saccade.training.config import RLRecipe

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
BOMBS = {
    "aliases of aliases": LAUGHS,
    "an alias of itself": "a: &a [*a]\n",
    "lists nested deeply": "a: " + "[" * 20_000 + "]" * 20_000,
    "sections nested deeply": "".join(f"{' ' * i}a:\n" for i in range(200)),
    "an integer of 5,000 digits": "num_steps: " + "9" * 5000,
    "a tag of Python": "a: !!python/object/apply:os.system ['true']\n",
    "aliases of a long text": f"a: &a {'x' * 100_000}\nb: [" + "*a," * 300 + "]\n",
    "a million items": "a: [" + "1," * 100_000 + "1]",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_recipe_that_is_a_bomb_is_refused_in_a_line_with_its_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "r.yaml").write_text(BOMBS[name])
    with pytest.raises(ConfigError, match=r"r\.yaml") as error:
        load(tmp_path / "r.yaml", RLRecipe)
    assert len(str(error.value)) < 5_000


@pytest.mark.parametrize("item", ["a,", "{},", "[],", "a: 1,"])
def test_yaml_takes_memory_for_as_many_values_as_a_recipe_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, item: str
) -> None:
    monkeypatch.setattr(yaml_values, "MOST_NODES", 1_000)
    (tmp_path / "config.yaml").write_text("kind: rl\nx: [" + item * 50_000 + "]\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    tracemalloc.start()
    with pytest.raises(ConfigError, match=r"config\.yaml:2: not valid YAML: more than 1,000 keys and values"):
        load(tmp_path / "config.yaml", RLRecipe)
    run = read_run(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert run.config == {} and any("config.yaml is not valid YAML" in one for one in run.warnings)
    assert peak < 6 << 20, "55 MB and more when all of them are read"


ODD: list[Any] = [None, "x", -1, 10**30, 1.5, [], {}, [[]], {"a": []}, "\ud800", True, [1], ["x"] * 3, "y" * 300_000]


def damage(path: Path, rng: random.Random) -> None:
    """Keys removed or replaced, rows that are no objects, a cut last line."""
    lines = []
    for text in path.read_text().splitlines():
        row = json.loads(text)
        for key in rng.sample(sorted(row), min(len(row), rng.choice([0, 1, 2]))):
            if rng.random() < 0.4:
                del row[key]
            else:
                row[key] = rng.choice(ODD)
        lines.append(json.dumps(row))
    lines[1:1] = ["5", "{", '"x"', "[" * 5000, "\ufffd", '{"step": 1}']
    path.write_text("\n".join(lines)[:-7])


@pytest.mark.parametrize("seed", range(6))
def test_any_run_directory_has_a_report_and_a_score_or_one_line(tmp_path: Path, seed: int, capsys: Any) -> None:
    rng = random.Random(seed)
    folder = write_run(tmp_path / "run", steps=20) if seed % 2 else write_eval(tmp_path / "run")
    for file in sorted(folder.rglob("*.jsonl")):
        damage(file, rng)
    for file in sorted(folder.glob("*.json")):
        file.write_text(rng.choice(["[]", "5", "{", "[" * 5000]))
    page = build_report(folder)
    assert 1_000 < page.stat().st_size < 20_000_000 and "skipped" in page.read_text()
    with pytest.raises(SystemExit) as ended:
        main(["score", str(folder), "--rubric", "hard"])
    assert ended.value.code in (0, 2) and "Traceback" not in capsys.readouterr().err


FILES = ("config.yaml", "metrics.jsonl", "rollouts.jsonl", "groups.jsonl", "alarms.jsonl", "environment.json")


@pytest.mark.parametrize("kind", ["pipes", "links to a device", "links out of the run"])
def test_files_of_a_run_that_are_no_files_of_it_are_not_read(tmp_path: Path, kind: str) -> None:
    folder, secret = write_run(tmp_path / "run", steps=3), tmp_path / "secret"
    secret.write_text('{"step": 1, "key": "hf_SECRET"}\n')
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
        if kind == "pipes":
            os.mkfifo(folder / name)
        else:
            (folder / name).symlink_to("/dev/zero" if kind == "links to a device" else secret)
    (folder / "results.json").write_text("{}")
    pages: list[Path] = []
    reader = threading.Thread(target=lambda: pages.append(build_report(folder)), daemon=True)
    reader.start()
    reader.join(60)
    assert len(pages) == 1 and "hf_SECRET" not in pages[0].read_text()
    assert kind == "pipes" or "is a link to something else than a file beside it" in pages[0].read_text()


@pytest.mark.parametrize("config", ["[]", "kind: [rl", "rubrics: 5\nmodel: [1]\n", "a: " + "x" * 5_000_000])
def test_the_kept_recipe_of_a_run_may_be_anything(tmp_path: Path, config: str, capsys: Any) -> None:
    folder = write_run(tmp_path / "run", steps=3)
    (folder / "config.yaml").write_text(config)
    (folder / "checkpoints" / "step-000003").mkdir(parents=True)
    for state in ('{"step": []}', "[" * 9999, "5"):
        (folder / "checkpoints" / "step-000003" / "state.json").write_text(state)
        (folder / "checkpoints" / "step-000003" / "config.json").write_text("{}")
        assert find_source(folder / "checkpoints" / "step-000003").step is None
    assert wording_of(str(folder / "checkpoints" / "step-000003")) is not None
    with pytest.raises(SystemExit) as ended:
        main(["score", str(folder), "--rubric", "hard"])
    assert ended.value.code in (0, 2) and "Traceback" not in capsys.readouterr().err


def test_token_ids_are_kept_for_a_share_of_groups_which_is_announced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from saccade.models.adapter import EncodedPrompt
    from saccade.rollout.groups import Group, Rollout
    from saccade.rollout.prompts import Prompt
    from saccade.types import Completion, Sample, Score

    encoded = EncodedPrompt.__new__(EncodedPrompt)
    for name, value in {"image_shas": (), "prompt_id": "p"}.items():
        object.__setattr__(encoded, name, value)
    prompt = Prompt(Sample("s", (), "?", 1, "count"), encoded)
    rollout = Rollout(Completion("x", (1, 2, 3), (-0.1, -0.2, -0.3)), Score(1.0))
    groups = [Group(f"1.0-{i}", prompt, (rollout,)) for i in range(400)]

    def kept(share: float | None) -> float:
        (tmp_path / records.ROLLOUTS).unlink(missing_ok=True)
        run = Run(tmp_path)
        for _ in range(2):
            run.rollouts(1, "main", groups, share)
        rows = [json.loads(line) for line in (tmp_path / records.ROLLOUTS).read_text().splitlines()][400:]
        assert all(row["tokens"] == 3 and ("token_ids" in row) == ("logprobs" in row) for row in rows)
        return sum("token_ids" in row for row in rows) / len(rows)

    assert (kept(None), kept(1.0), kept(0.0)) == (1.0, 1.0, 0.0)
    assert kept(0.5) == pytest.approx(0.5, abs=0.1)
    monkeypatch.setattr(records, "FULL_UNTIL", 1000)
    assert kept(None) == pytest.approx(0.1, abs=0.06) and kept(None) > 0
    assert caplog.text.count("keeps token ids") == 1


@pytest.mark.parametrize(
    "results", ['{"rows": 5, "parts": {"a": []}}', '{"rows": [5]}', '{"attempts": [{"k": 1, "avg": 1, "pass": 0}]}']
)
def test_a_page_of_odd_results_is_written_or_refused_in_a_line(tmp_path: Path, results: str, capsys: Any) -> None:
    folder = write_eval(tmp_path / "run")
    (folder / "results.json").write_text(results)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(folder)])
    told = capsys.readouterr().err
    assert ended.value.code == 0 or ("a file holds other values than a run writes" in told and told.count("\n") == 1)
