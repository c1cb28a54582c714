"""The whole cold start: offline on the world, where its quality can be measured, and with bad input."""

from __future__ import annotations

import gc
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, chat_server
from PIL import Image

from benchmarks.coldstart import in_fresh_process, rows_per_second
from saccade import cli
from saccade.coldstart.recipe import ColdStartRecipe
from saccade.coldstart.run import WRITTEN, run
from saccade.coldstart.store import NAME, WRITING, Store
from saccade.coldstart.teachers import TeacherError
from saccade.config import dump, load
from saccade.data import DataConfig, open_source
from saccade.runs.drafts import Draft, read_drafts
from saccade.training.config import ExampleConfig
from saccade.training.examples import read_examples

TASKS = ("count", "arithmetic", "compare", "chart", "geometry", "choice", "yes_no")


def recipe(out: Path, n: int = 8, **changes: Any) -> ColdStartRecipe:
    base = {
        "kind": "coldstart",
        "out": out,
        "data": [{"source": "world", "task": task, "limit": n} for task in TASKS],
        "vision": {"teacher": "world"},
        "reasoner": {"teacher": "world"},
        "filters": [],
        "polish": False,
        "samples": 2,
        "sampling": {"description": {"max_new_tokens": 500}},
    }
    return ColdStartRecipe.model_validate({**base, **changes})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_reasoner_with_complete_true_facts_answers_everything(tmp_path: Path) -> None:
    summary = run(recipe(tmp_path, 15, samples=1))
    assert summary["written"]["easy"] == summary["written"]["in the set"] == 15 * len(TASKS)


def test_errors_and_omissions_cost_answers(tmp_path: Path) -> None:
    wrong = run(recipe(tmp_path / "e", vision={"teacher": "world", "error_rate": 0.5}))["written"]["easy"]
    less = run(recipe(tmp_path / "o", vision={"teacher": "world", "omission_rate": 0.5}))["written"]["easy"]
    assert max(wrong, less) < 0.8 * 8 * len(TASKS)


def test_bridged_descriptions_answer_more_than_captions_of_the_same_budget(tmp_path: Path) -> None:
    """Tests the pipeline; oracle teachers are no evidence about real ones."""
    n = 25 * len(TASKS)
    budget = {"description": {"max_new_tokens": 40}}
    summary = run(recipe(tmp_path, 25, ablation=n, sampling=budget, samples=1))
    found = summary["accuracy"]
    assert found["n"] == n
    assert found["bridged - caption"]["low"] > 0.05
    assert found["caption"]["low"] > found["none"]["high"]
    drafts = [Draft.from_json(line) for line in (tmp_path / "drafts.jsonl").read_text().splitlines()]
    for draft in drafts:
        assert max(len(text.split()) for text in (draft.caption or "", draft.description or "")) <= 40
    captions, descriptions = (
        sum(len((getattr(d, key) or "").split()) for d in drafts) for key in ("caption", "description")
    )
    assert captions == pytest.approx(descriptions, rel=0.05)


def test_rows_of_the_ablation_are_spread_over_the_sources(tmp_path: Path) -> None:
    run(recipe(tmp_path, 4, ablation=14, samples=1))
    asked = [draft["source"] for draft in lines(tmp_path / "drafts.jsonl") if draft["caption"]]
    assert len(asked) == 14 and {asked.count(source) for source in asked} == {2}


def test_sft_and_llama_factory_can_read_the_set(tmp_path: Path) -> None:
    run(recipe(tmp_path))
    examples = read_examples(ExampleConfig(path=tmp_path / "train.jsonl"))
    other = json.loads((tmp_path / "llama_factory.json").read_text())
    assert len(examples) == len(other) == 8 * len(TASKS)
    for example, row in zip(examples, other, strict=True):
        assert row["messages"][0]["content"] == example.prompt and row["messages"][1]["content"] == example.reply
        assert row["messages"][0]["content"].count("<image>") == len(row["images"]) == 1
        assert (tmp_path / row["images"][0]).is_file()
    info = json.loads((tmp_path / "dataset_info.json").read_text())["cold_start"]
    assert (tmp_path / info["file_name"]).is_file() and info["columns"]["messages"] in other[0]


def test_easy_and_hard_rows_become_labeled_rl_prompts(tmp_path: Path) -> None:
    summary = run(recipe(tmp_path, 10, samples=3, reasoner={"teacher": "world", "slip_rate": 0.5}))
    rows = {name: lines(tmp_path / f"rl_{name}.jsonl") for name in ("easy", "mixed", "hard")}
    assert all(len(rows[name]) == summary["written"][name] > 0 for name in rows)
    for name, rate in (("easy", 1.0), ("hard", 0.0)):
        (label,) = {(row["meta"]["cold_start"], row["meta"]["pass_rate"]) for row in rows[name]}
        assert label == (name, rate)
        source = open_source(DataConfig(source="saccade", path=tmp_path / f"rl_{name}.jsonl"))
        assert len(source) == len(rows[name]) and source[0].meta["cold_start"] == name
    hard = {row["id"] for row in rows["hard"]}
    assert not hard & {row["id"] for row in lines(tmp_path / "train.jsonl")}


def prompts(path: Path, **given: Any) -> list[str]:
    source = open_source(DataConfig.model_validate({"source": "saccade", "path": path, **given}))
    return [sample.meta["cold_start"] for sample in source]


def test_an_rl_recipe_selects_prompts_by_their_labels(tmp_path: Path) -> None:
    written = run(recipe(tmp_path, 10, samples=3, reasoner={"teacher": "world", "slip_rate": 0.5}))["written"]
    everything = tmp_path / "rl_*.jsonl"
    assert len(prompts(everything)) == 10 * len(TASKS)
    for labels in (["hard"], ["hard", "mixed"], ["easy", "mixed", "hard"]):
        chosen = prompts(everything, cold_start=labels)
        assert {label: chosen.count(label) for label in labels} == {label: written[label] for label in labels}
        assert len(chosen) == sum(written[label] for label in labels)
    assert prompts(everything, cold_start=["mixed"], limit=2) == ["mixed"] * 2, "the limit counts what was chosen"


def test_unknown_or_missing_labels_are_refused_with_their_place(tmp_path: Path) -> None:
    run(recipe(tmp_path, 2))
    easy, train = tmp_path / "rl_easy.jsonl", tmp_path / "train.jsonl"
    with pytest.raises(ValueError, match="'easy', 'mixed' or 'hard'"):
        prompts(easy, cold_start=["difficult"])
    with pytest.raises(ValueError, match="at least 1 item"):
        prompts(easy, cold_start=[])
    with pytest.raises(ValueError, match="'cold_start' is not an option of source 'world'"):
        DataConfig.model_validate({"source": "world", "task": "count", "cold_start": ["hard"]})
    with pytest.raises(ValueError, match=r"no usable row with cold_start mixed \(0 skipped\)"):
        prompts(easy, cold_start=["mixed"])
    with pytest.raises(ValueError, match=r"train\.jsonl:1: meta\.cold_start is \{.*expected easy, mixed, hard"):
        prompts(train, cold_start=["hard"])
    rows = lines(easy)
    del rows[1]["meta"]["cold_start"]
    easy.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"rl_easy\.jsonl:2: meta\.cold_start is None"):
        prompts(easy, cold_start=["easy"])
    left = open_source(DataConfig(source="saccade", path=easy, cold_start=("easy",), on_bad="skip"))
    assert (len(left), left.skipped) == (len(rows) - 1, 1)


def test_the_shortest_right_chain_is_kept_or_a_diverse_set(tmp_path: Path) -> None:
    run(recipe(tmp_path / "s", 5, samples=6))
    run(recipe(tmp_path / "d", 5, samples=6, prefer="diverse", keep=3))
    for folder, count in (("s", 1), ("d", 3)):
        for line in (tmp_path / folder / "drafts.jsonl").read_text().splitlines():
            draft = Draft.from_json(line)
            assert len(draft.chosen) == count
            assert len(draft.chains[draft.chosen[0]].text) == min(len(chain.text) for chain in draft.chains)
    pairs = zip(lines(tmp_path / "d" / "drafts.jsonl"), lines(tmp_path / "s" / "drafts.jsonl"), strict=True)
    assert any(len({d["chains"][i]["text"] for i in d["chosen"]}) == 3 for d, _ in pairs)


def test_no_step_sees_the_answer_unless_declared_and_then_every_row_says_so(tmp_path: Path) -> None:
    run(recipe(tmp_path / "blind"))
    assert not any(row["meta"]["cold_start"]["saw_answer"] for row in lines(tmp_path / "blind" / "train.jsonl"))
    run(recipe(tmp_path / "told", answer_in=["pseudo_cot"], ablation=10))
    for draft in lines(tmp_path / "told" / "drafts.jsonl"):
        heard = {(step["stage"], step["arm"]) for step in draft["steps"] if step["saw_answer"]}
        assert heard == {("pseudo_cot", "bridged"), ("description", "bridged"), ("reasoning", "bridged")}


def test_a_row_records_models_prompts_sampling_tokens_cost_and_time(tmp_path: Path) -> None:
    def answer(number: int, request: dict[str, Any]) -> Answer:
        text = (
            "<think>I see it.</think><answer>3</answer>" if isinstance(request["messages"][0]["content"], str) else "x"
        )
        return Answer(text)

    with chat_server(answer) as server:
        run(chat_recipe(tmp_path, server.url, n=2, answer_in=["reasoning"]))
    (first, _) = lines(tmp_path / "set" / "train.jsonl")
    steps = {step["stage"]: step for step in first["meta"]["cold_start"]["steps"]}
    assert steps["pseudo_cot"]["prompt_version"].startswith("pseudo_cot@1:")
    assert "+answer@1:" in steps["reasoning"]["prompt_version"] and steps["reasoning"]["saw_answer"]
    for step in steps.values():
        assert step["model"] == "fake" and step["sampling"]["temperature"] == 0.6 and step["seconds"] > 0
        assert (step["tokens_in"], step["tokens_out"], step["cost"]) == (7, 3, pytest.approx((7 * 1 + 3 * 2) / 1e6))
    visual = [r for r in server.requests if not isinstance(r["messages"][0]["content"], str)]
    assert all(r["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png") for r in visual)
    told = [r["messages"][0]["content"] for r in server.requests if isinstance(r["messages"][0]["content"], str)]
    assert sum("the correct answer is: 3" in text for text in told) == 2  # and not in the check


def test_a_separate_reasoning_field_is_read(tmp_path: Path) -> None:
    message = {"content": "The answer is <answer>3</answer>", "reasoning_content": "Three dots, one by one."}
    raw = json.dumps({"model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    with chat_server(lambda number, request: Answer(raw=raw)) as server:
        run(chat_recipe(tmp_path, server.url, n=1))
    (row,) = lines(tmp_path / "set" / "train.jsonl")
    assert row["response"] == "<think>Three dots, one by one.</think><answer>3</answer>"


def test_a_rerun_requests_nothing_twice_and_other_filters_cost_nothing(tmp_path: Path) -> None:
    with chat_server(lambda number, request: Answer("<think>So.</think><answer>3</answer>")) as server:
        run(chat_recipe(tmp_path, server.url, n=3))
        asked = len(server.requests)
        again = run(chat_recipe(tmp_path, server.url, n=3, keep=2))
    assert len(server.requests) == asked and again["chains"]["in the set"] == 3
    (tmp_path / "mine.md").write_text("version: 2\n---\nWhat does {description} say about {question}")
    with pytest.raises(ValueError, match=r"what teachers write: prompts\.reasoning: .* -> .*; set another"):
        run(chat_recipe(tmp_path, server.url, n=3, prompts={"reasoning": str(tmp_path / "mine.md")}))
    with pytest.raises(ValueError, match=r"what teachers write: samples: 1 -> 5; set another"):
        run(chat_recipe(tmp_path, server.url, n=3, samples=5))


@pytest.mark.parametrize(
    "ends", ["with the set", "killed", "with the set of other rows", "with the set of other filters"]
)
def test_a_process_waits_for_the_one_that_writes_the_set_and_writes_what_that_one_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    config = recipe(tmp_path, n=1, lease_s=1.0)
    run(config)
    before = (tmp_path / "train.jsonl").read_bytes()
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / ".train.jsonl.999999999.partial").touch()
    other = Store(tmp_path / NAME, lease_s=1.0)
    other.owner = json.dumps({**json.loads(other.owner), "host": "pod-1"})
    assert other.acquire_lock(WRITING) is None
    if ends == "killed":
        other.remember(WRITTEN, "")
    elif ends == "with the set of other rows":
        other.remember(WRITTEN, "of an earlier state")
    elif ends == "with the set of other filters":
        config = recipe(tmp_path, n=1, lease_s=1.0, keep=2)
    written = other.fact(WRITTEN, str)

    def wait(seconds: float) -> None:
        if ends == "killed":
            sleep(seconds)
        else:
            other.release_lock(WRITING)

    sleep = time.sleep
    monkeypatch.setattr("saccade.coldstart.run.time.sleep", wait)
    summary = run(config)
    if ends == "with the set":
        assert re.fullmatch(r"process \d+ on pod-1 since .*", summary["writes_the_set"])
        assert not (tmp_path / "train.jsonl").exists()
    else:
        assert ends.endswith("filters") or (tmp_path / "train.jsonl").read_bytes() == before
        assert summary["rows"]["done"] == 7 and not list(tmp_path.glob(".*.partial"))
        assert (tmp_path / "config.yaml").read_text() == dump(config)
        assert other.fact(WRITTEN, str) not in ("", written)
    assert Store(tmp_path / NAME).acquire_lock(WRITING) is None


# ------------------------------------------------------------------------------------------------------- bad input


def chat_recipe(folder: Path, url: str, n: int = 3, **changes: Any) -> ColdStartRecipe:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (32, 32), (9, 99, 199)).save(folder / "a.png")
    turns = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "3"}]
    rows = [{"id": f"r{i}", "image": "a.png", "conversations": turns, "task": "count"} for i in range(n)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    teacher = {"teacher": "endpoint", "url": url, "model": "fake", "timeout_s": 2, "retries": 0, "backoff_s": 0}
    teacher |= {"price_in": 1.0, "price_out": 2.0}
    base = {"data": [{"source": "vlm_r1", "path": folder / "rows.jsonl"}], "vision": teacher, "reasoner": teacher}
    fast = {"samples": 1, "attempts": 2, "retry_after_s": 0.0, "sampling": {}}
    return recipe(folder / "set", **{**base, **fast, **changes})


def test_an_unreachable_server_is_reported_before_any_row(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vision: POST http://127.0.0.1:9/.*check that the server runs"):
        run(chat_recipe(tmp_path, "http://127.0.0.1:9"))


def test_a_wrong_key_is_reported_without_the_key(tmp_path: Path) -> None:
    key = "sk-secret-1234"
    refused = Answer(status=401, raw=f'{{"error": "Incorrect API key provided: {key}"}}'.encode())
    with (
        chat_server(lambda number, request: refused) as server,
        pytest.raises(ValueError, match="OPENAI_API_KEY") as said,
    ):
        run(chat_recipe(tmp_path, server.url), {"OPENAI_API_KEY": key})
    headers = {name.lower(): value for name, value in server.requests[0]["headers"].items()}
    assert headers["authorization"] == f"Bearer {key}" and key not in str(said.value)
    assert not [p for p in (tmp_path / "set").rglob("*") if p.is_file() and key.encode() in p.read_bytes()]


def test_a_key_that_expires_midway_stops_the_run_and_is_never_written(tmp_path: Path) -> None:
    key = "sk-secret-1234"

    def answer(number: int, request: dict[str, Any]) -> Answer:
        return Answer("fine") if number < 5 else Answer(status=401, raw=f"bad key {key}".encode())

    with chat_server(answer) as server, pytest.raises(ValueError, match="a teacher rejected") as said:
        run(chat_recipe(tmp_path, server.url), {"OPENAI_API_KEY": key})
    assert key not in str(said.value)
    assert not [p for p in (tmp_path / "set").rglob("*") if p.is_file() and key.encode() in p.read_bytes()]


def test_rows_that_are_refused_at_once_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused(*_: object) -> None:
        raise TeacherError("status 401", "no key", fatal=True)

    monkeypatch.setattr("saccade.coldstart.run.write_row", refused)
    with pytest.raises(ValueError, match="a teacher rejected"):
        run(recipe(tmp_path, n=1))
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_model_without_vision_is_reported_before_any_row(tmp_path: Path) -> None:
    def answer(number: int, request: dict[str, Any]) -> Answer:
        seen = not isinstance(request["messages"][0]["content"], str)
        return Answer(status=400, raw=b"fake is not a multimodal model") if seen else Answer("yes")

    with chat_server(answer) as server, pytest.raises(ValueError, match="does 'fake' accept images"):
        run(chat_recipe(tmp_path, server.url))


def test_a_server_that_dies_midway_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    dead = Answer(status=500, raw=b"out of memory")
    with (
        chat_server(lambda number, request: Answer("<answer>3</answer>") if number < 12 else dead) as server,
        pytest.raises(ValueError, match=r"[56] consecutive attempts failed.*out of memory"),
    ):
        run(chat_recipe(tmp_path, server.url, n=20, stop_after=5, attempts=9, rows=2))
    with chat_server(lambda number, request: Answer("<think>a</think><answer>3</answer>")) as server:
        summary = run(chat_recipe(tmp_path, server.url, n=20, attempts=9))
        assert len(server.requests) < 2 + 60  # the checks, and less than all three steps of all rows
    assert summary["rows"]["done"] == 20 and summary["written"]["in the set"] >= 15


def test_a_refused_row_is_counted_and_others_continue(tmp_path: Path) -> None:
    refused: list[int] = []

    def answer(number: int, request: dict[str, Any]) -> Answer:
        if number == 3:
            refused.append(number)
            return Answer(status=413, raw=b"image too large")
        return Answer("<think>a</think><answer>3</answer>")

    with chat_server(answer) as server:
        summary = run(chat_recipe(tmp_path, server.url))
    assert summary["left_out"] == {"status 413": 1} and summary["rows"] == {"all": 3, "done": 2, "open": 0, "failed": 1}
    (row,) = lines(tmp_path / "set" / "left_out.jsonl")
    assert "send smaller images" in row["detail"]


def numbered_rows(n: int) -> list[str]:
    return [
        json.dumps(
            {
                "id": str(i),
                "images": ["a.png"],
                "task": "count",
                "question": f"How many? {i}",
                "answer": "3",
                "meta": {},
            }
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("status", [403, 404])
def test_a_row_that_a_gateway_forbids_costs_itself_and_all_of_them_stop_the_run(tmp_path: Path, status: int) -> None:
    forbidden: list[Any] = []

    def answer(number: int, request: dict[str, Any]) -> Answer:
        forbidden.extend([request["messages"]] if number == 3 else [])
        flagged = request["messages"] in forbidden
        return Answer(status=status, raw=b"flagged") if flagged else Answer("<think>a</think><answer>3</answer>")

    (tmp_path / "d.jsonl").write_text("\n".join(numbered_rows(3)))
    data = [{"source": "saccade", "path": tmp_path / "d.jsonl"}]
    with chat_server(answer) as server:
        summary = run(chat_recipe(tmp_path, server.url, data=data))
    assert summary["left_out"] == {f"status {status}": 1}
    assert summary["rows"] == {"all": 3, "done": 2, "open": 0, "failed": 1}
    with (
        chat_server(lambda n, _: Answer("yes") if n < 2 else Answer(status=status, raw=b"no such model")) as server,
        pytest.raises(ValueError, match=r"3 consecutive attempts failed.*no such model"),
    ):
        run(chat_recipe(tmp_path / "all", server.url, n=20, rows=1, stop_after=3))


def test_data_that_was_mended_after_a_bad_row_is_ingested_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.coldstart.ingest.PAGE", 4)
    rows = numbered_rows(12)
    path = tmp_path / "d.jsonl"
    data = [{"source": "saccade", "path": path}]
    with chat_server(lambda number, request: Answer("<think>a</think><answer>3</answer>")) as server:
        path.write_text("\n".join([*rows[:10], "{broken", *rows[10:]]))
        with pytest.raises(ValueError, match=r"d\.jsonl:11: "):
            run(chat_recipe(tmp_path, server.url, data=data))
        path.write_text("\n".join(rows[3:]))
        run(chat_recipe(tmp_path, server.url, data=data))
    assert [draft.id for draft in read_drafts(tmp_path / "set")] == [str(n) for n in range(3, 12)]


def test_a_description_with_only_reasoning_is_an_empty_reply(tmp_path: Path) -> None:
    def answer(number: int, request: dict[str, Any]) -> Answer:
        message = {"content": "" if number == 3 else "<answer>3</answer>", "reasoning_content": "Let me look."}
        return Answer(raw=json.dumps({"model": "m", "choices": [{"message": message}]}).encode())

    with chat_server(answer) as server:
        summary = run(chat_recipe(tmp_path, server.url, attempts=1))
    assert summary["left_out"] == {"empty reply": 1} and summary["rows"]["done"] == 2
    (row,) = lines(tmp_path / "set" / "left_out.jsonl")
    assert "only reasoning" in row["detail"]


def test_half_of_a_surrogate_pair_in_a_reply_is_replaced_and_the_row_is_written(tmp_path: Path) -> None:
    raw = b'{"model":"m","choices":[{"message":{"content":"<think>odd \\ud800</think><answer>3</answer>"}}]}'
    with chat_server(lambda number, request: Answer(raw=raw)) as server:
        run(chat_recipe(tmp_path, server.url, n=1))
    (row,) = lines(tmp_path / "set" / "train.jsonl")
    assert row["response"] == "<think>odd ?</think><answer>3</answer>"


def test_unusable_rows_are_counted_by_reason(tmp_path: Path) -> None:
    config = chat_recipe(tmp_path, "http://127.0.0.1:9")
    turns = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "3"}]
    box = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": [1, 2, 3, 4]}]
    rows = [
        {"id": "text", "image": [], "conversations": turns, "task": "count"},
        {"id": "none", "conversations": turns, "task": "count"},
        {"id": "gone", "image": "gone.png", "conversations": turns, "task": "count"},
        {"id": "box", "image": "a.png", "conversations": box},
        {"id": "odd", "image": "a.png", "conversations": turns, "task": "riddle"},
    ]
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    with chat_server(lambda number, request: Answer("<think>a</think><answer>3</answer>")) as server:
        data = [{**config.data[0].model_dump(exclude_unset=True), "on_bad": "skip"}]
        teacher = {"vision": {**config.vision.model_dump(), "url": server.url}}
        teacher["reasoner"] = teacher["vision"]
        summary = run(
            ColdStartRecipe.model_validate({**config.model_dump(exclude_unset=True), "data": data, **teacher})
        )
    assert summary["left_out"] == {
        "answer is not text": 1,
        "bad image": 1,
        "bad row": 1,
        "no image": 1,
        "unknown task": 1,
    }
    assert summary["rows"]["done"] == 3


def test_an_image_that_disappears_is_counted(tmp_path: Path) -> None:
    def answer(number: int, request: dict[str, Any]) -> Answer:
        if number == 2:
            (tmp_path / "a.png").unlink(missing_ok=True)
        return Answer("<think>a</think><answer>3</answer>")

    with chat_server(answer) as server:
        summary = run(chat_recipe(tmp_path, server.url, rows=1))
    assert summary["left_out"] == {"bad image": 3}


def test_oracle_teachers_accept_only_world_data(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="works only on the procedural world; got source 'llava'"):
        recipe(tmp_path, data=[{"source": "llava", "path": "x.json"}])


def test_the_packaged_recipe_runs_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = [f"data.{i}.limit=4" for i in range(len(TASKS))]
    with pytest.raises(SystemExit) as ended:
        cli.main(["coldstart", "coldstart_world", "--out", str(tmp_path / "set"), *small])
    said = capsys.readouterr().out
    assert ended.value.code in (0, None) and "28 of 28 rows done" in said and "bridged description" in said
    with pytest.raises(SystemExit):
        cli.main(["coldstart", "coldstart_world", "--out", str(tmp_path / "set"), *small, "--json"])
    assert json.loads(capsys.readouterr().out)["rows"] == {"all": 28, "done": 28, "open": 0, "failed": 0}


def test_the_option_teacher_world_replaces_the_teachers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["coldstart", "coldstart_world", "--teacher", "world", "--print-config"])
    (tmp_path / "r.yaml").write_text(capsys.readouterr().out)
    assert load(tmp_path / "r.yaml", ColdStartRecipe).vision.model_dump() == {
        "teacher": "world",
        "error_rate": 0.0,
        "omission_rate": 0.0,
    }


def test_the_benchmark_of_the_cold_start_runs() -> None:
    found = rows_per_second(12, 8)
    assert found["rows"] == 12 and found["requests_per_s"] == pytest.approx(4 * found["rows_per_s"])
    assert in_fresh_process(40)["peak_mb"] > 10
