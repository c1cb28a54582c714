from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import asdict, replace
from functools import reduce
from itertools import product

import pytest

from saccade.evaluation import results as rs
from saccade.evaluation.benchmark_results import counts, outcome, scores
from saccade.evaluation.benchmarks import BENCHMARKS
from saccade.evaluation.habits import habit_of, listings
from saccade.evaluation.items import ItemResult, append_items, read_items
from tests.benchmark_files import details_of

ROW_KEYS = [
    "model",
    "control",
    "split",
    "task",
    "decoding",
    "k",
    "n",
    "accuracy",
    "low",
    "high",
    "mean_tokens",
    "truncated",
]


ODD = [None, 5, -1, 1e308, 10**30, True, "x", "", [], [None], ["x"], [1, 2], [[1]], [[1, 2, 3, 4]], [[["x"]]], {}]
ODD += [{"a": 1}, [[None, None, None, None]]]


def item(
    i: int,
    *verdicts: bool | None,
    task: str = "count",
    split: str = "test",
    model: str = "rl",
    control: str | None = None,
):
    k = len(verdicts)
    return ItemResult(
        model=model,
        control=control,
        decoding="greedy" if k == 1 else "sampled",
        sample_id=f"{split}/{task}/{i}",
        task=task,
        split=split,
        verdicts=verdicts,
        routes=("number",) * k,
        answers=tuple(str(int(bool(v))) for v in verdicts),
        tokens=tuple(range(10, 10 + k)),
        truncated=(False,) * (k - 1) + (True,),
        habits=("enumerate",) * k,
        listings=(1,) * k,
        text="<think>scan a1 1</think><answer>1</answer>",
        question="How many?",
        gold="1",
        boxes=((1.0, 2.0, 3.0, 4.0),),
        details=details_of(*verdicts, split=split, group=str(i)),
    )


def test_rows_have_the_keys_of_the_schema_and_an_overall_row_first():
    rows = rs.summarize([item(0, True), item(1, False), item(0, True, task="sum")])
    assert [list(row) for row in rows] == [ROW_KEYS] * 3
    assert [(row["task"], row["n"], row["accuracy"]) for row in rows] == [
        ("all", 3, pytest.approx(2 / 3)),
        ("count", 2, 0.5),
        ("sum", 1, 1.0),
    ]
    assert rows[0]["mean_tokens"] == 10 and rows[0]["truncated"] == 1.0 and rows[0]["control"] is None


def test_one_answer_per_item_gets_the_wilson_interval():
    row = rs.summarize([item(i, i < 8) for i in range(10)])[0]
    assert (row["low"], row["high"]) == pytest.approx((0.490162, 0.943318), abs=1e-6)


def test_several_attempts_get_avg_at_k_and_an_interval_over_items_not_over_answers():
    items = [item(i, *([i % 2 == 0] * 4)) for i in range(40)]
    row = rs.summarize(items)[0]
    assert (row["k"], row["n"], row["accuracy"], row["decoding"]) == (4, 40, 0.5, "sampled")
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, abs=0.03)


def test_items_that_are_all_wrong_still_have_an_interval_with_a_width():
    row = rs.summarize([item(i, False, False) for i in range(18)])[0]
    assert (row["accuracy"], row["low"]) == (0.0, 0.0) and row["high"] == pytest.approx(0.1759, abs=1e-4)


def test_splits_models_and_controls_have_rows_of_their_own():
    rows = rs.summarize(
        [item(0, True), item(0, True, split="ood"), item(0, False, model="sft"), item(0, False, control="forced habit")]
    )
    overall = [(r["model"], r["control"], r["split"]) for r in rows if r["task"] == "all"]
    assert overall == [("rl", None, "test"), ("rl", None, "ood"), ("sft", None, "test"), ("rl", "forced habit", "test")]


def test_an_item_whose_gold_cannot_be_graded_is_not_counted():
    assert rs.summarize([item(0, True), item(1, None)])[0]["n"] == 1


def test_attempt_rows_hold_avg_pass_and_majority():
    row = rs.summarize_attempts([item(0, True, False, False, False), item(1, True, True, True, False)])[0]
    assert row["avg"] == 0.5
    assert row["pass"] == {"1": 0.5, "2": pytest.approx((0.5 + 1.0) / 2), "4": 1.0}
    assert row["maj"] == 0.5
    assert rs.summarize_attempts([item(0, True)]) == []


def test_a_majority_of_letters_and_texts_of_options_is_one_majority():
    votes = replace(item(0, True, True, False, False), answers=("B", "blue", "A", "C"), options=("red", "blue", "tan"))
    assert rs.summarize_attempts([votes])[0]["maj"] == 1.0
    wrong = replace(votes, verdicts=(False, False, True, False))
    assert rs.summarize_attempts([wrong])[0]["maj"] == 0.0


def test_a_comparison_is_paired_by_item_whatever_the_order():
    a = [item(i, True) for i in range(20)]
    b = [item(i, i >= 15, model="sft") for i in reversed(range(20))]
    row = rs.comparison_row(rs.compare("RL minus SFT", a, b))
    assert (row["name"], row["difference"], row["n"], row["shown"]) == ("RL minus SFT", pytest.approx(0.75), 20, True)
    assert 0.5 < row["low"] < 0.75 < row["high"] <= 1.0 and row["p"] == pytest.approx(2 / 2**15)


def test_runs_on_different_items_are_refused_with_an_example():
    with pytest.raises(ValueError, match=r"1 items are in one run only.*count/2"):
        rs.compare("odd", [item(0, True), item(2, True)], [item(0, True)])


def test_results_are_written_whole_or_not_at_all(tmp_path):
    path = rs.write_results(tmp_path / "new" / "results.json", rs.summarize([item(0, True)]), seconds=1.5, seed=7)
    document = json.loads(path.read_text())
    assert (document["schema"], document["seconds"], document["seed"], len(document["rows"])) == (1, 1.5, 7, 2)
    with pytest.raises(ValueError, match="JSON"):
        rs.write_results(path, [{"accuracy": float("nan")}], seconds=1, seed=0)
    assert json.loads(path.read_text()) == document


def test_items_survive_the_file_and_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "items.jsonl"
    items = [item(0, True), item(1, None, False)]
    append_items(path, items)
    with path.open("ab") as file:
        file.write(b'{"model": "rl", "cont')
    assert read_items(path) == items
    third = replace(item(2, True), text="a line\nbreak \u2028 and \u00e9")
    append_items(path, [third])
    assert read_items(path) == [*items, third]


def test_a_row_of_another_version_is_refused_with_its_line(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text('{"model": "rl"}\n')
    with pytest.raises(ValueError, match=r"items.jsonl:1: keys"):
        read_items(path)


@pytest.mark.parametrize(
    ("think", "habit", "times"),
    [
        ("looks like 3", "terse", 0),
        ("check red: a1 1, b2 2. star: c1 1, b2 2. Wait, let me check. red: a1 1, b2 2. star: c1 1, b2 2", "check", 2),
        ("scan blue 9, red 9. 9 + 9 = 18", "enumerate", 1),
        ("scan red: a1 1, b2 2", "enumerate", 1),
        ("check red: a1 1, b2 2. again red: a1 1, b2 2", "check", 2),
        ("Hmm a1 1, b2 2. wait a1 1, b2 2. again a1 1, b2 2", "ramble", 3),
        ("scan red: a1 1, b2 2. blue: c3 1", "enumerate", 1),
        ("scan none", "enumerate", 1),
        ("a1 1, a1 1", "other", 2),
        ("", "other", 0),
    ],
)
def test_habits_and_listings_are_read_from_the_think_block(think, habit, times):
    for text in (f"<think>{think}</think><answer>a1 a1 2</answer>", f"<think>{think}"):
        assert (habit_of(text), listings(text)) == (habit, times)


def test_a_reply_without_a_think_block_has_no_habit_and_no_listing():
    assert (habit_of("scan a1 1"), listings("scan a1 1")) == ("other", 0)


@pytest.mark.parametrize("line", ["\0" * 50, "[" * 100_000, "5", "null", "{} x", "\ud800", "9" * 5_000])
def test_a_damaged_line_of_items_is_named_with_the_way_out(line, tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_bytes(line.encode("utf-8", "surrogatepass") + b"\n")
    with pytest.raises(ValueError, match=r"items.jsonl:1: .*delete this line"):
        read_items(path)


def test_a_row_with_any_value_in_any_field_is_read_into_results_or_named_with_the_way_out(tmp_path):
    path = tmp_path / "items.jsonl"
    whole = json.loads(json.dumps(asdict(item(0, True, False))))
    fields = [(key,) for key in whole] + [("details", key) for key in whole["details"]]
    fields += [("details", "attempts", 0, key) for key in whole["details"]["attempts"][0]]
    refused = set()
    for field, value in product(fields, ODD):
        row = deepcopy(whole)
        reduce(lambda inner, key: inner[key], field[:-1], row)[field[-1]] = value
        path.write_text(json.dumps(row) + "\n")
        try:
            items = read_items(path)
        except ValueError as error:
            assert re.search(r"items.jsonl:1: no row of an evaluation \(.{9,300}\); delete this line", str(error))
            refused.add(field)
            continue
        counts(items, {})
        rs.summarize_attempts(items)
        json.dumps([scores(BENCHMARKS["chartqa"], items), rs.summarize(items), [outcome(one).group for one in items]])
    unread = {"prompt_id", "mode", "judge", "read", "right", "route", "detail", "gold"}
    assert {field for field in fields if field[-1] not in unread or field == ("routes",)} <= refused
    with pytest.raises(ValueError, match=r"details.attempts.0.value: got 'x', expected a valid number\); delete"):
        whole["details"]["attempts"][0]["value"] = "x"
        path.write_text(json.dumps(whole) + "\n")
        read_items(path)
