"""Pass rates: rows are chosen by how often a model answers them right; and what `check` calls safe trains."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from test_data_any_rows import ROWS
from test_data_formats import jsonl, png

from saccade import cli
from saccade.data import DataConfig
from saccade.data.pass_rates import PassRateConfig, rate_row, with_rates
from saccade.data.sources import items
from saccade.evaluation.eval_plan import own_plan
from saccade.types import Sample


def run(*argv: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in argv])
    return int(ended.value.code or 0)


def question(number: int, **more: Any) -> dict[str, Any]:
    return {"id": str(number), "question": f"How much is {number} + 1?", "answer": str(number + 1)} | more


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    """Five rows, row n answered right n times of 4."""
    jsonl(tmp_path / "t.jsonl", *(question(n) for n in range(5)))
    rates = [rate_row(str(n), question(n)["question"], str(n + 1), [i < n for i in range(4)]) for n in range(5)]
    return jsonl(tmp_path / "rates.jsonl", *rates)


def kept(rates: Path, **limits: float) -> list[str]:
    entry = DataConfig(source="table", path=rates.parent / "t.jsonl", pass_rate={"file": rates, **limits})
    return [item.id if isinstance(item, Sample) else str(item) for _, item in items(entry)]


def test_rows_are_kept_between_two_rates(rated: Path) -> None:
    assert kept(rated) == ["0", "1", "2", "3", "4"]
    assert kept(rated, low=0.25, high=0.75) == ["1", "2", "3"]
    assert kept(rated, low=0.1) == ["1", "2", "3", "4"]


def test_a_limit_is_of_the_rows_that_were_asked(rated: Path) -> None:
    entry = DataConfig(source="table", path=rated.parent / "t.jsonl", limit=4, pass_rate={"file": rated, "low": 0.3})
    assert [item.id for _, item in items(entry) if isinstance(item, Sample)] == ["2", "3"]


def test_rows_of_one_id_have_a_rate_of_their_own_or_are_refused(tmp_path: Path) -> None:
    rows = [question(0, id="page", answer="1"), question(0, id="page", answer="1"), question(0, id="p#1", answer="1")]
    jsonl(tmp_path / "t.jsonl", *rows, question(0, id="p#2", answer="1"))
    asked = question(0)["question"]
    rates = [("page", [True]), ("page", [False]), ("p#1", [True]), ("p#2", [False])]
    file = jsonl(tmp_path / "rates.jsonl", *(rate_row(name, asked, "1", right) for name, right in rates))
    one, two, *found = kept(file, low=0.5)
    assert all("several rates for rows with its id, question and answer" in text for text in (one, two))
    assert found == ["p#1"]
    file = jsonl(
        tmp_path / "rates.jsonl", *(rate_row(name, asked, "1", [True]) for name in ("page", "page", "p#1", "p#2"))
    )
    assert kept(file, low=0.5) == ["page", "page", "p#1", "p#2"]


def test_no_row_has_the_rate_of_another(tmp_path: Path) -> None:
    """Also where ids look like those that an evaluation gives to repeated ones."""
    random, names = Random(3), ["a", "a#2", "a#3", "b", "a#2#2", "p#0", "#1", "a#02"]
    file, judged = tmp_path / "rates.jsonl", 0
    for _ in range(300):
        samples = [Sample(random.choice(names), (), "Q", "1", "count") for _ in range(random.randint(1, 5))]
        right = [random.random() < 0.5 for _ in samples]
        asked = own_plan(samples)
        ids = [asked.row_ids.get(one.id, one.id) for one in asked.samples]
        assert ids == [one.id for one in samples]
        count = random.randint(1, len(samples))
        rates = [rate_row(name, "Q", "1", [good]) for name, good in zip(ids[:count], right, strict=False)]
        rows = ((str(place), one) for place, one in enumerate(samples))
        found = list(with_rates(rows, PassRateConfig(file=jsonl(file, *rates), low=0.5)))
        refused = {int(place) for place, one in found if isinstance(one, ValueError)}
        kept = {int(place) for place, one in found if isinstance(one, Sample)}
        judged += len(samples) - len(refused)
        rated = [place for place in range(len(ids)) if place < count and place not in refused]
        assert kept & set(range(count)) == {place for place in rated if right[place]}
        assert {place for place in range(count, len(samples)) if ids[place] not in ids[:count]} <= refused
    assert judged > 300


def test_a_row_without_a_rate_is_named_and_so_is_one_that_changed(rated: Path) -> None:
    jsonl(rated.parent / "t.jsonl", question(0, answer="7"), question(9), question(4))
    found = kept(rated, high=1.0)
    assert found[2] == "4"
    assert all("has no pass rate for it; run 'saccade data passrate'" in text for text in found[:2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no pass rates"),
        ("{}\n", "rates.jsonl:1: field 'right' is missing"),
        ('{"id": "1", "question": "?", "gold": "1", "right": 5, "k": 4}\n', "got 5 right replies of 4"),
    ],
)
def test_an_invalid_file_of_rates_is_named(rated: Path, text: str, message: str) -> None:
    rated.write_text(text)
    with pytest.raises(ValueError, match=message):
        kept(rated)


def test_rates_out_of_order_are_refused(rated: Path) -> None:
    with pytest.raises(ValueError, match=r"low is 0\.9 and high 0\.1"):
        kept(rated, low=0.9, high=0.1)


def recipe(folder: Path, data: list[dict[str, Any]], num_steps: int = 2) -> Path:
    value = {
        "kind": "rl",
        "model": {"path": "base"},
        "data": data,
        "stages": [{"name": "a", "max_new_tokens": 12, "group_size": 2}],
        "num_steps": num_steps,
        "prompts_per_step": len(data),
        "optim": {"lr": 1.0e-4},
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(value))
    return folder / "r.yaml"


def test_a_model_rates_the_rows_of_a_recipe_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonl(tmp_path / "t.jsonl", *(question(n) for n in range(3)))
    path = recipe(tmp_path, [{"source": "table", "path": str(tmp_path / "t.jsonl")}])
    out = tmp_path / "rates"
    assert run("data", "passrate", path, "-k", "2", "--out", out) == 0
    first = (out / "pass_rates.jsonl").read_text()
    assert [json.loads(line)["k"] for line in first.splitlines()] == [2, 2, 2]
    items_file = out / "items.jsonl"
    items_file.write_text("".join(items_file.read_text().splitlines(keepends=True)[:1]))
    assert run("data", "passrate", path, "-k", "2", "--out", out) == 0
    assert (out / "pass_rates.jsonl").read_text() == first
    assert "of 3 rows are neither always right nor always wrong" in capsys.readouterr().out
    assert run("data", "passrate", path, "-k", "2", "--out", out, "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["rows"] == sum(plain["by_right"].values()) == 3 and plain["by_right"]["1"] == plain["mixed"]


@pytest.mark.parametrize("num_steps", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_what_check_calls_safe_trains_in_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], num_steps: int
) -> None:
    (tmp_path / "a.png").write_bytes(png())
    data = []
    for source, row in ROWS.items():
        row = json.loads(json.dumps(row).replace("?", f"? ({source})"))  # no row twice
        jsonl(tmp_path / f"{source}.jsonl", row | ({"accu_reward_method": "default"} if source == "vlm_r1" else {}))
        data.append({"source": source, "path": str(tmp_path / f"{source}.jsonl"), "name": source})
    path = recipe(tmp_path, data, num_steps)
    assert run("check", path) == 0, capsys.readouterr().out
    assert run("rl", path, "--out", tmp_path / "run") == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * num_steps * len(data)
    assert {row["masked"] for row in rows} <= {None, "truncated"}
