"""Benchmarks against a served model and a served judge, and through the command line."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from saccade.cli import main
from saccade.data import files
from saccade.endpoint import Endpoint, RequestLimits
from saccade.endpoint.room import Room
from saccade.evaluation import answerers
from saccade.evaluation.answerers import EvalQuestion, Failed, ServedFrame, ServedModel, _turn
from saccade.evaluation.benchmarking import evaluate
from saccade.evaluation.benchmarks import BENCHMARKS, Place
from saccade.evaluation.benchmarks.rows import decoded, rows_of, tsv_rows
from saccade.evaluation.config import Decoding, EvalRecipe
from saccade.evaluation.items import read_items
from saccade.types import Sample
from tests.benchmark_files import chartqa, details_of, mathvista, mmstar, picture, rec, write_tsv
from tests.chat_server import Answer, chat_server
from tests.hub_cache import hub_set

LIMITS = RequestLimits(retries=0, backoff_s=0.0, timeout_s=5.0)


def recipe(benchmark: str, data: Path, out: Path, url: str, **given: Any) -> EvalRecipe:
    server = {"name": "tiny"} | ({"frame": given.pop("frame")} if "frame" in given else {})
    base = {"benchmark": benchmark, "path": data, "out": str(out), "model": url, "server": server}
    return EvalRecipe.model_validate(base | {"kept_images": 0} | given)


def test_a_served_model_gets_the_same_prompt_and_the_image_as_it_is(tmp_path):
    with chat_server(lambda number, request: Answer("A")) as server:
        evaluate(recipe("mmstar", mmstar(tmp_path), tmp_path / "run", server.url), limits=LIMITS)
    assert len(server.requests) == 6
    content = server.requests[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]
    data = content[0]["image_url"]["url"].removeprefix("data:image/png;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (200, 100)
    item = read_items(tmp_path / "run" / "items.jsonl")[0]
    asked = {request["messages"][0]["content"][1]["text"] for request in server.requests}
    assert item.question.removeprefix("<image>") in asked
    assert server.requests[0]["temperature"] == 0.0 and server.requests[0]["model"] == "tiny"


@pytest.mark.parametrize(
    ("text", "most", "at_once"),
    [("?", 1, 1), ("?", 3 * 4 * 100 * 100 * 2 + 999, 2), ("?" * 1_000, 150_000, 1), ("?", 1 << 30, 8)],
)
def test_requests_have_so_many_large_images_at_once_as_there_is_room(monkeypatch, text, most, at_once):
    """What is sent of an image of noise is about what is reserved for it."""
    lock, now, highest = threading.Lock(), [0], [0]

    def answer(number, request):
        with lock:
            now[0] += 1
            highest[0] = max(highest[0], now[0])
        time.sleep(0.1)
        with lock:
            now[0] -= 1
        return Answer("A")

    noise = Image.frombytes("RGB", (100, 100), random.Random(1).randbytes(30_000))
    sample = Sample("one", (noise,), "<image>?", "A", "choice", {})
    with chat_server(answer) as server:
        monkeypatch.setattr(answerers, "Room", lambda: Room(most))
        model = ServedModel(Endpoint(server.url, "tiny", limits=replace(LIMITS, concurrency=8)))
        found = model.answer([EvalQuestion(sample, f"<image>{text}", 1)] * 8, Decoding(max_new_tokens=4), 1)
    assert [one[0].text for one in found] == ["A"] * 8
    assert highest[0] <= at_once and (at_once < 8 or highest[0] > 2)


def test_room_is_given_back_also_after_an_error_and_waited_for():
    room, began = answerers.Room(10), threading.Event()
    with pytest.raises(KeyError), room.of(10) as became:
        became(4)
        raise KeyError

    def take() -> None:
        with room.of(7):
            began.set()

    with room.of(99) as became:  # alone, larger than the room is
        thread = threading.Thread(target=take)
        thread.start()
        assert not began.wait(0.1)
        became(3)
        assert began.wait(10)
    thread.join()
    with room.of(10):
        pass


def test_tasks_wait_for_room_too():
    room, order = Room(10), []

    async def take(name: str, size: int) -> None:
        async with room.soon(size):
            order.append(name)
            await asyncio.sleep(0.1)
            order.append(name)

    async def all_of_them() -> None:
        await asyncio.gather(take("a", 6), take("b", 6), take("c", 4))

    asyncio.run(all_of_them())
    assert order.index("b") >= order[1:].index("a") + 2 and order.count("c") == 2
    with room.of(10):
        pass


def test_images_stand_where_their_markers_stand():
    image = Image.new("RGB", (4, 4))
    parts = _turn("first <image> then <image> end", [image, image])["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "text", "image_url", "text"]
    assert parts[0]["text"] == "first" and parts[-1]["text"] == " end"


def test_thought_that_the_server_keeps_apart_is_thought(tmp_path):
    body = {"choices": [{"message": {"content": "B", "reasoning_content": "A or B?"}, "finish_reason": "stop"}]}
    body["usage"] = {"completion_tokens": 9}
    with chat_server(lambda number, request: Answer(raw=json.dumps(body).encode())) as server:
        evaluate(recipe("mmstar", mmstar(tmp_path), tmp_path / "run", server.url), limits=LIMITS)
    item = read_items(tmp_path / "run" / "items.jsonl")[0]
    assert (item.text == "<think>A or B?</think>B" and item.answers == ("A",)) or item.tokens == (9,)
    assert item.details["attempts"][0]["read"] == "after thought"


def test_failed_requests_are_errors_and_a_second_start_asks_them_again(tmp_path):
    def answer(number, request):
        return Answer(status=500) if number < 2 else Answer("A")

    with chat_server(answer) as server:
        asked = recipe("mmstar", mmstar(tmp_path), tmp_path / "run", server.url, batch_size=6)
        first = evaluate(asked, limits=RequestLimits(concurrency=1, retries=0))
        second = evaluate(asked, limits=RequestLimits(concurrency=1, retries=0))
    assert first["counts"]["errors"] == 2 and "status 500" in first["counts"]["first_error"]
    assert second["counts"]["errors"] == 0 and second["counts"]["items"] == 6 and len(server.requests) == 8


def test_a_server_that_gives_too_few_replies_has_failed(tmp_path):
    sample = Sample("1", (picture_in(tmp_path),), "?", "A", "choice")
    from saccade.endpoint import Endpoint

    with chat_server(lambda number, request: Answer("A", n=1)) as server, Endpoint(server.url, "tiny") as endpoint:
        (found,) = ServedModel(endpoint).answer([EvalQuestion(sample, "<image>?", 3)], Decoding(greedy=False, k=2), 2)
    assert found == Failed("the server returned 1 replies, expected 2")
    assert server.requests[0]["seed"] == 3 and server.requests[0]["n"] == 2


def test_every_option_of_sampling_reaches_the_server_or_is_refused(tmp_path):
    sample = Sample("1", (picture_in(tmp_path),), "?", "A", "choice")
    from saccade.endpoint import Endpoint

    decoding = Decoding(greedy=False, temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, stop_strings=("x",))
    with chat_server(lambda number, request: Answer("A")) as server, Endpoint(server.url, "tiny") as endpoint:
        ServedModel(endpoint).answer([EvalQuestion(sample, "<image>?", 3)], decoding, 1)
    sent = {key: server.requests[0].get(key) for key in ("temperature", "top_p", "top_k", "min_p", "stop", "seed")}
    assert sent == {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "stop": ["x"], "seed": 3}
    with pytest.raises(ValueError, match="repetition_stop is not an option of a served model"):
        recipe("mmstar", tmp_path, tmp_path / "run", server.url, decoding={"repetition_stop": 4})


def test_answers_from_before_the_data_changed_are_not_mixed_with_new_ones(tmp_path):
    data = mmstar(tmp_path)
    with chat_server(lambda number, request: Answer("A")) as server:
        asked = recipe("mmstar", data, tmp_path / "run", server.url)
        evaluate(asked, limits=LIMITS)
        rows = (data / "val.jsonl").read_text()
        for old, new in (('"answer": "A"', '"answer": "B"'), ("What colour is it?", "Which shape is it?")):
            (data / "val.jsonl").write_text(rows.replace(old, new))
            with pytest.raises(ValueError, match=r"another question with the id '0': the data changed"):
                evaluate(asked, limits=LIMITS)
        (tmp_path / "run" / "config.yaml").unlink()
        with pytest.raises(ValueError, match="unknown evaluation"):
            evaluate(asked, limits=LIMITS)


def picture_in(folder: Path) -> str:
    return str(folder / picture(folder / "p.png"))


def test_boxes_of_a_served_model_need_a_stated_frame(tmp_path):
    data = rec(tmp_path)
    with chat_server(lambda n, r: Answer('<answer>{"bbox_2d": [0, 100, 300, 700]}</answer>')) as server:
        with pytest.raises(ValueError, match=r"set server\.frame"):
            evaluate(recipe("refcoco", data, tmp_path / "a", server.url), limits=LIMITS)
        results = evaluate(recipe("refcoco", data, tmp_path / "b", server.url, frame="thousand"), limits=LIMITS)
    items = {item.sample_id: item for item in read_items(tmp_path / "b" / "items.jsonl")}
    first = items["refcoco_val/refcoco_val.json:1"]  # answers are kept as they arrive
    assert first.boxes == ((0.0, 10.0, 60.0, 70.0),) and first.verdicts == (True,)
    assert 0 < results["scores"][0]["value"] < 1


def test_the_stated_resize_is_that_of_the_servers_processor():
    frame = ServedFrame("pixels_resized", 28, 56 * 56, 28 * 28 * 8).of(Image.new("RGB", (400, 200)))
    assert frame.size_original == (400, 200) and frame.size_input == (112, 56)


def test_a_judge_extracts_once_and_is_not_asked_again(tmp_path):
    data = mathvista(tmp_path)

    def answer(number, request):
        asked = request["messages"][0]["content"]
        return Answer("7") if isinstance(asked, str) and asked.startswith("Copy out") else Answer("about seven")

    with chat_server(answer) as server:
        given = {"judge": {"url": server.url, "name": "judge"}}
        results = evaluate(recipe("mathvista", data, tmp_path / "run", server.url, **given), limits=LIMITS)
        asked = [r for r in server.requests if r["model"] == "judge"]
        (tmp_path / "run" / "items.jsonl").unlink()
        evaluate(recipe("mathvista", data, tmp_path / "run", server.url, **given), limits=LIMITS)
        again = [r for r in server.requests if r["model"] == "judge"]
    assert len(asked) == 4 == len(again) and results["counts"]["needs_judge"] == 0
    assert results["benchmark"]["judge"].startswith("judge at http")
    right = {item.sample_id for item in read_items(tmp_path / "run" / "items.jsonl") if item.verdicts[0]}
    assert right == {"2"}


# ---------------------------------------------------------------------------------------------------------------- rows


def test_tsv_images_are_base64_or_the_index_of_another_row(tmp_path):
    image = base64.b64encode(b"x" * 300).decode()
    file = write_tsv(tmp_path / "a.tsv", [{"index": 1, "image": image, "q": "a"}, {"index": 2, "image": "1", "q": "b"}])
    rows = dict(tsv_rows(file))
    assert rows["a.tsv:3"]["image"] == rows["a.tsv:2"]["image"] == image and decoded(image) == b"x" * 300
    (tmp_path / "b.tsv").write_text("a\tb\n1\n", encoding="utf-8")
    assert "got 1 cells, expected 2 (a, b)" in str(dict(tsv_rows(tmp_path / "b.tsv"))["b.tsv:2"])


def test_a_row_of_a_tsv_has_an_end_however_many_lines_are_in_its_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_CELLS", 1_000, raising=False)
    write_tsv(tmp_path / "a.tsv", [{"a": "x\n" * 300, "b": "y\n" * 300}, {"a": "1", "b": "2"}])
    rows = dict(tsv_rows(tmp_path / "a.tsv"))
    assert (
        "row larger than the limit of 1,000 characters" in str(rows["a.tsv:2"])
        and {"a": "1", "b": "2"} in rows.values()
    )


def test_an_invalid_row_stops_with_file_and_row(tmp_path):
    data = mathvista(tmp_path)
    held = json.loads((data / "testmini.json").read_text(encoding="utf-8"))
    held["2"]["question_type"] = "riddle"
    (data / "testmini.json").write_text(json.dumps(held), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"testmini.json:2: field 'question_type': got 'riddle', expected multi_choice"
    ):
        BENCHMARKS["mathvista"].load(Place(data))
    (data / "testmini.json").write_text(json.dumps(held | {"3": held["1"]}).replace('"3": ', '"1": '), encoding="utf-8")
    with pytest.raises(ValueError, match=r"testmini.json:1: the key '1' is there twice"):
        list(rows_of(Place(data), ("testmini.json",), ("a/b", None, "test")))
    with pytest.raises(ValueError, match=r"contains none of testmini.json"):
        list(rows_of(Place(tmp_path / "images"), ("testmini.json",), ("a/b", None, "test")))


def test_rows_of_the_hub_keep_their_images_as_bytes(monkeypatch, tmp_path):
    content = (tmp_path / "i.png", picture(tmp_path / "i.png"))[0].read_bytes()
    row = {"type": "human_test", "question": "?", "answer": ["14"], "image": {"bytes": content, "path": None}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    held = {"data/test-00000-of-00001.parquet": (tmp_path / "rows.parquet").read_bytes()}
    hub_set(tmp_path / "hub", monkeypatch, held, None, "lmms-lab/ChartQA")
    (sample,) = BENCHMARKS["chartqa"].load(Place(None))
    assert sample.images == (content,) and sample.answer == "14" and sample.meta["slices"] == {"split": "human"}
    with pytest.raises(ValueError, match=r"hub 'lmms-lab/MME': cannot be read .*download the files and set 'path'"):
        BENCHMARKS["mme"].load(Place(None))


# -------------------------------------------------------------------------------------------------------- command line


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def test_the_verb_lists_describes_runs_and_compares(tmp_path, capsys):
    assert run("eval", "--list") == 0 and "| `ovdeval` |" in capsys.readouterr().out
    assert run("eval", "--describe", "chartqa") == 0 and "5 percent" in capsys.readouterr().out
    data = chartqa(tmp_path / "d") if (tmp_path / "d").mkdir() is None else None
    with chat_server(lambda number, request: Answer("14")) as server:
        words = ("eval", "chartqa", f"path={data}", f"model={server.url}", "server.name=tiny")
        for name in ("a", "b"):
            assert run(*words, "--out", str(tmp_path / name)) == 0
        before = len(server.requests)
        assert run("eval", str(tmp_path / "a" / "config.yaml")) == 0 and len(server.requests) == before
    shown = capsys.readouterr().out
    assert "mean_of_splits" in shown and "verified against the official script: no" in shown
    assert run("eval", "--compare", str(tmp_path / "a"), str(tmp_path / "b")) == 0
    assert "+0.0" in capsys.readouterr().out
    assert run("report", str(tmp_path / "a")) == 0 and (tmp_path / "a" / "report.html").is_file()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("mathvistas",), "there is no benchmark or recipe 'mathvistas'; did you mean 'mathvista'?"),
        (("benchmark=mathvistas",), "there is no benchmark 'mathvistas'; expected one of mathvista"),
        (("chartqa", "mode=exact"), "has no mode 'exact'; expected one of official, strict"),
        (("chartqa", "subset=val"), "has no subset 'val'"),
        (("chartqa", "prompt=cot"), "has no prompt 'cot'"),
        (("chartqa", "limmit=3"), "unknown key 'limmit'; did you mean 'limit'?"),
        (("chartqa", "decoding.temprature=3"), "unknown key 'decoding.temprature'; did you mean 'temperature'?"),
        (("chartqa", "model=http://localhost:1/v1"), "needs server.name"),
        (("chartqa", "judge={url: 'http://x', name: j}"), "uses no judge"),
        (("mathvista", "judge.url=http://x"), "'judge.name' is missing"),
        (("chartqa", "server={name: m, frame: thousand}"), "server is only for a served model"),
        (("chartqa", "decoding.temperature=0.5"), "temperature: no effect on greedy replies"),
        (("world", "path=."), "benchmark 'world' reads no files"),
        (("world_eval", "subset=ood"), "subset: only for a `benchmark`"),
        (("world_eval", "benchmark=chartqa"), "got benchmark 'chartqa' and `data` or `world`"),
        (("world_eval", "decoding.greedy=true"), "also_greedy: decoding is greedy already"),
        (("chartqa", "decoding.k=3"), "greedy decoding, where all attempts are equal"),
        (("refcoco", "model=http://x", "server={name: m, resize: 28}"), "'server.resize': got 28"),
        (("chartqa", "path=nowhere"), "nowhere: there is no such file or folder"),
        (("chartqa", "format=vlm_r1"), "format: not an option of benchmark 'chartqa'"),
        ((), "give a benchmark's name"),
        (("--describe", "x"), "there is no benchmark 'x'"),
        (("--compare", "nowhere", "nowhere"), "nowhere: no items found"),
        (("--benchmark", "chartqa"), "benchmark=VALUE"),
        (("chartqa", "--limit", "3"), "limit=VALUE"),
        (("chartqa", "--k=3"), "decoding.k=3"),
        (("chartqa", "--max-new-tokens=3"), "decoding.max_new_tokens=3"),
        (("chartqa", "--data", "x"), "path=VALUE"),
        (("chartqa", "--served-name", "x"), "server.name=VALUE"),
        (("chartqa", "--judge-model", "x"), "judge.name=VALUE"),
    ],
)
def test_invalid_input_is_reported_in_one_line(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("eval", *words) == 2
    captured = capsys.readouterr().err
    assert expected in captured and len(captured.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_evaluations_of_recipes_are_compared_too(tmp_path):
    from saccade.evaluation.benchmark_results import compare_runs
    from saccade.evaluation.items import ItemResult, append_items

    def item(name: str, decoding: str, right: bool) -> ItemResult:
        per_attempt = ("number",), ("1",), (10,), (False,), ("other",), (0,)
        details = details_of(right, group=name)
        return ItemResult(
            "m", None, decoding, name, "count", "test", (right,), *per_attempt, "", "", gold=3, details=details
        )

    for folder, right in (("a", True), ("b", False)):
        append_items(
            tmp_path / folder / "items.jsonl", [item(n, d, right) for n in "xy" for d in ("greedy", "sampled")]
        )
    found = compare_runs(tmp_path / "a", tmp_path / "b")
    assert found["rows"][0]["n"] == 4 and found["rows"][0]["difference"] == 1.0
    assert {row["name"] for row in found["rows"]} >= {"all", "decoding = greedy", "decoding = sampled"}


def test_a_served_model_lists_and_mistakes_need_no_torch(tmp_path):
    data = chartqa(tmp_path)
    program = (
        "import json, sys\nfrom saccade.cli import main\nfound = []\nfor words in json.loads(sys.argv[1]):\n"
        "    try:\n        main(['eval', *words])\n    except SystemExit as ended:\n        found.append(ended.code)\n"
        "sys.stderr.write(json.dumps([found, sorted({'torch', 'transformers'} & set(sys.modules))]))\n"
    )
    with chat_server(lambda number, request: Answer("14")) as server:
        served = ["chartqa", f"path={data}", f"model={server.url}", "server.name=tiny", f"out={tmp_path / 'run'}"]
        mistakes = [["chartqa", "limmit=3"], ["chartqas"], ["chartqa", "--limit", "3"]]
        words = [*mistakes, ["--list"], ["world_eval", "--print-config"], served]
        command = [sys.executable, "-c", program, json.dumps(words)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stderr.splitlines()[-1]) == [[2, 2, 2, 0, 0, 0], []]
    assert (tmp_path / "run" / "results.json").is_file() and server.requests


ODD_REPLIES: dict[str, Any] = {
    "half an emoji": {"message": {"content": "A \ud83d"}},
    "a count of tokens beyond all": {"message": {"content": "A"}},
    "a finish reason that is a list": {"message": {"content": "A"}, "finish_reason": [{}]},
    "a text that is a number": {"message": {"content": 5}},
    "no message": {},
    "no object": "A",
}


@pytest.mark.parametrize("name", [*ODD_REPLIES, "JSON nested deeply", "a million choices", "usage of texts"])
def test_a_reply_that_is_odd_costs_its_item_and_never_the_run(tmp_path, name):
    def answer(number, request):
        if number:
            return Answer("A")
        usage = {"completion_tokens": "many"} if name == "usage of texts" else {"completion_tokens": 10**11}
        body = {"choices": [ODD_REPLIES.get(name, {"message": {"content": "A"}})], "usage": usage}
        raw = json.dumps(body)
        if name == "JSON nested deeply":
            raw = raw[:-1] + ', "more": ' + "[" * 500_000 + "]" * 500_000 + "}"
        if name == "a million choices":
            raw = json.dumps({"choices": [{"message": {"content": "A"}}] * 5_000})
        return Answer(raw=raw.encode())

    with chat_server(answer) as server:
        asked = recipe("mmstar", mmstar(tmp_path), tmp_path / "run", server.url, batch_size=6)
        found = evaluate(asked, limits=RequestLimits(concurrency=2, retries=0, timeout_s=60))
    items = read_items(tmp_path / "run" / "items.jsonl")
    assert len(items) + found["counts"]["errors"] == 6 and len(items) >= 5
    assert all(tokens <= 4096 for item in items for tokens in item.tokens)
    assert found["counts"]["errors"] == 0 or found["counts"]["first_error"]


def test_an_answer_is_kept_when_it_arrives_and_not_when_its_batch_is_done(tmp_path):
    kept = []

    def answer(number, request):
        if number == 4:
            path = tmp_path / "run" / "items.jsonl"
            kept.append(path.read_bytes().count(b"\n") if path.exists() else 0)
        return Answer("A")

    with chat_server(answer) as server:
        asked = recipe("mmstar", mmstar(tmp_path), tmp_path / "run", server.url, batch_size=6)
        evaluate(asked, limits=RequestLimits(concurrency=1, retries=0))
    assert kept[0] >= 3
