"""A judge that does not answer: its items are neither right nor wrong, and the model's replies wait for it."""

from __future__ import annotations

import json

import pytest

from saccade.evaluation.benchmarking import evaluate, refuse_changed
from saccade.evaluation.items import read_items
from tests.benchmark_files import mathvista, mmstar
from tests.chat_server import Answer, chat_server
from tests.test_evaluation_served import LIMITS, recipe


def test_a_judge_that_does_not_answer_costs_no_reply_and_judges_later(tmp_path):
    """Its items are not wrong: they are judged when the command runs again, and the model is not asked again."""
    data, down = mathvista(tmp_path), [True]

    def answer(number, request):
        asked = request["messages"][0]["content"]
        if not (isinstance(asked, str) and asked.startswith("Copy out")):
            return Answer("about seven", n=request["n"])
        return Answer(status=401) if down[0] else Answer("7")

    sampled = {"decoding": {"greedy": False, "k": 2, "temperature": 0.5}, "also_greedy": True}
    with chat_server(answer) as server:
        given = {"judge": {"url": server.url, "name": "judge"}, **sampled}
        whole = recipe("mathvista", data, tmp_path / "whole", server.url, **given)
        down[0] = False
        right = evaluate(whole, limits=LIMITS)
        run = recipe("mathvista", data, tmp_path / "run", server.url, **given)
        down[0] = True
        before = len(server.requests)
        with pytest.raises(ValueError, match=r"no item of mathvista could be graded \(4 errors\); first: .*401"):
            evaluate(run, limits=LIMITS)
        asked = [one["model"] for one in server.requests[before:]]
        with pytest.raises(ValueError, match="401"):
            evaluate(run, limits=LIMITS)
        (tmp_path / "run" / "unjudged.jsonl").open("a").write('{"cut off')
        rows = len((tmp_path / "run" / "unjudged.jsonl").read_text().splitlines())
        down[0] = False
        found = evaluate(run, limits=LIMITS)
        again = [one["model"] for one in server.requests[before:]]
    assert rows == 9 and not (tmp_path / "run" / "unjudged.jsonl").exists()
    assert again.count("tiny") == asked.count("tiny") > 0
    assert found["scores"] == right["scores"] and found["counts"] == right["counts"]
    items = [
        {(one.decoding, one.sample_id): one for one in read_items(tmp_path / name / "items.jsonl")}
        for name in ("whole", "run")
    ]
    assert items[0] == items[1] and len(items[0]) == 8
    assert evaluate(run, limits=LIMITS)["scores"] == right["scores"]


@pytest.mark.parametrize("last", ["about seven", "</answer>", "The answer is <answer>7</answer>"])
def test_a_reply_that_was_discarded_is_judged_later_too(tmp_path, last):
    """With or without a judge's part in the last reply."""
    data, down = mathvista(tmp_path), [False]
    again: dict[str, int] = {}

    def answer(number, request):
        asked = request["messages"][0]["content"]
        if isinstance(asked, str) and asked.startswith("Copy out"):
            return Answer(status=401) if down[0] else Answer("7" if "seven at first" in asked else "8")
        question = json.dumps(request["messages"])
        again[question] = again.get(question, 0) + 1
        return Answer("seven at first" if again[question] % 3 == 1 else last)

    with chat_server(answer) as server:
        given = {"judge": {"url": server.url, "name": "judge"}, "retries_until_parsed": 3}
        given |= {"decoding": {"greedy": False, "temperature": 0.5}}
        whole = evaluate(recipe("mathvista", data, tmp_path / "whole", server.url, **given), limits=LIMITS)
        again.clear()
        down[0] = True
        run = recipe("mathvista", data, tmp_path / "run", server.url, **given)
        with pytest.raises(ValueError, match="401"):
            evaluate(run, limits=LIMITS)
        down[0] = False
        found = evaluate(run, limits=LIMITS)
        assert found["scores"] == whole["scores"] and found["counts"] == whole["counts"]
        names = ("whole", "run")
        items = [{one.sample_id: one for one in read_items(tmp_path / name / "items.jsonl")} for name in names]
        assert items[0] == items[1] and any(one.details["attempts"][0]["first_right"] for one in items[0].values())
        lines = (tmp_path / "run" / "items.jsonl").read_text().splitlines()
        for odd in (None, [], 5, "x", {"a": 5}):
            details = {"unjudged": "?", "firsts": odd}
            waiting = [row | {"details": row["details"] | details} for row in map(json.loads, lines)]
            (tmp_path / "run" / "items.jsonl").unlink()
            (tmp_path / "run" / "unjudged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in waiting))
            assert evaluate(run, limits=LIMITS)["scores"]


def test_replies_that_wait_for_a_judge_are_of_one_model_and_one_recipe(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "unjudged.jsonl").touch()
    with pytest.raises(ValueError, match=r"holds items of an unknown evaluation"):
        evaluate(recipe("mmstar", mmstar(tmp_path), out, "http://127.0.0.1:9"), limits=LIMITS)
    (out / "environment.json").write_text('{"model_hash": "a"}')
    with pytest.raises(ValueError, match="from before the model changed"):
        refuse_changed({"model_hash": "b"}, out)
