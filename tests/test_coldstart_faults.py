"""A cold start against a faulty server, killed midway: nothing is lost and nothing is duplicated."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_server import Answer, chat_server
from PIL import Image

from saccade.coldstart.recipe import ColdStartRecipe
from saccade.coldstart.run import run
from saccade.coldstart.store import Store
from saccade.runs.drafts import Chain, StepRecord, shallow_dict

HERE = Path(__file__).parent
KEY = "sk-do-not-write-this-down"
SAMPLES = 2
START = "from saccade.cli import main; main()"


@contextmanager
def fault_server(folder: Path, share: float) -> Iterator[str]:
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    server = subprocess.Popen([sys.executable, str(HERE / "fault_server.py"), str(port_file), str(share), "7"])
    try:
        wait_for(port_file.exists, 30)
        yield f"http://127.0.0.1:{port_file.read_text()}"
    finally:
        server.kill()
        server.wait()


def wait_for(true: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(0.02)


def write_rows(folder: Path, n: int, empty: int = 0) -> Path:
    """n questions about one image, and `empty` ones without an image."""
    Image.new("RGB", (32, 32), (9, 99, 199)).save(folder / "a.png")
    with (folder / "rows.jsonl").open("w") as lines:
        for i in range(n + empty):
            turns = [{"from": "human", "value": f"Row {i}: which number?"}, {"from": "gpt", "value": str(i)}]
            image = {"image": "a.png"} if i < n else {}
            lines.write(json.dumps({"id": f"r{i}", **image, "conversations": turns, "task": "count"}) + "\n")
    return folder / "rows.jsonl"


def write_recipe(folder: Path, url: str, rows: Path, **changes: Any) -> Path:
    teacher = {
        "teacher": "endpoint",
        "url": url,
        "model": "fake",
        "concurrency": 48,
        "timeout_s": 1.0,
        "backoff_s": 0.01,
        "price_in": 1.0,
        "price_out": 2.0,
        "key_variable": "TEST_KEY",
    }
    recipe = {
        "kind": "coldstart",
        "out": str(folder / "set"),
        "data": [{"source": "vlm_r1", "path": str(rows)}],
        "vision": teacher,
        "reasoner": teacher,
        "samples": SAMPLES,
        "rows": 32,
        "attempts": 6,
        "retry_after_s": 0.05,
        **changes,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def start(recipe: Path, log: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "TEST_KEY": KEY, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-c", START, "coldstart", str(recipe)], stdout=file, stderr=file, env=env
        )


def done(store: Path) -> int:
    if not store.exists():
        return 0
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=30) as db:
        try:
            return db.execute("SELECT COUNT(*) FROM rows WHERE state = 'done'").fetchone()[0]
        except sqlite3.OperationalError:  # being created
            return 0


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def killed(folder: Path, n: int, share: float, seconds: float, kills: int = 3) -> dict[str, Any]:
    """Runs to the end with kills, finishing with two processes; returns the server's counts."""
    log, store = folder / "log", folder / "set" / "rows.sqlite"
    with fault_server(folder, share) as url:
        recipe = write_recipe(folder, url, write_rows(folder, n))
        for part in range(1, kills + 1):
            process = start(recipe, log)
            wait_for(lambda part=part: done(store) >= n * part // (kills + 2), seconds)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert done(store) < n, "the kills came too late to test anything"
        last = [start(recipe, log), start(recipe, log)]
        assert [process.wait(timeout=seconds) for process in last] == [0, 0], log.read_text()[-2000:]
        with urllib.request.urlopen(f"{url}/counts", timeout=10) as answer:
            return json.load(answer)


def check_whole(folder: Path, n: int, counts: dict[str, Any], kills: int = 3) -> None:
    out = folder / "set"
    with sqlite3.connect(out / "rows.sqlite") as db:
        assert db.execute("SELECT state, COUNT(*) FROM rows GROUP BY state").fetchall() == [("done", n)]
        steps = db.execute("SELECT number, COUNT(*), COUNT(DISTINCT step) FROM steps GROUP BY number").fetchall()
    assert [count for _, count, _ in steps] == [2 + SAMPLES] * n == [kinds for *_, kinds in steps]
    drafts = lines(out / "drafts.jsonl")
    assert [draft["id"] for draft in drafts] == [f"r{i}" for i in range(n)]
    assert all(draft["description"] for draft in drafts)
    assert not any(step["saw_answer"] for draft in drafts for step in draft["steps"])
    train = lines(out / "train.jsonl")
    assert len({row["id"] for row in train}) == len(train) > 0.9 * n
    assert all(f"<answer>{row['id'][1:]}</answer>" in row["response"] for row in train)
    assert len(json.loads((out / "llama_factory.json").read_text())) == len(train)
    assert set(counts["faults"]) == {"", "429", "500", "hang", "reset", "garbage", "schema", "short", "cut_off"}
    in_flight = 32 * SAMPLES  # requests that a killed process had open at most
    asked_twice = sum(counts["given"].values()) - n * (2 + SAMPLES)
    assert asked_twice <= kills * in_flight + counts["faults"]["hang"] + 20


def test_three_kills_and_all_faults_lose_and_repeat_nothing(tmp_path: Path) -> None:
    counts = killed(tmp_path, 200, 0.2, 60)
    check_whole(tmp_path, 200, counts)
    written = [path for path in (tmp_path / "set").rglob("*") if path.is_file()] + [tmp_path / "log"]
    assert not [path.name for path in written if KEY.encode() in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "kills"), [(10_000, 3), (1_000, 20)])
def test_many_rows_survive_kills_and_faults(n: int, kills: int, tmp_path: Path) -> None:
    check_whole(tmp_path, n, killed(tmp_path, n, 0.2, 1200, kills), kills)


@pytest.mark.parametrize("made", [False, True])
def test_rows_that_another_process_had_for_a_while_are_finished(tmp_path: Path, made: bool) -> None:
    """As after a stop of this process, longer than its leases, in which another one took its rows, wrote a step of each
    and was killed. What is in progress here goes on, and is not begun a second time beside that."""
    n, lock, overtaken = 6, threading.Lock(), threading.Event()

    def overtake() -> None:
        record = StepRecord("reasoning", "m", "p@1:0", {}, 5, 6, 0.0, 0.1, False)
        chain = Chain("I count.", "3", 0, "bridged", right=False, route="number")
        with Store(tmp_path / "set" / "rows.sqlite", lease_s=60.0) as other:
            wait_for(lambda: other._db.execute("SELECT COUNT(*) FROM steps").fetchone() == (2 * n,), 20)
            other._db.execute("UPDATE rows SET lease = 0 WHERE owner IS NOT NULL")
            for claim in other.claim(n):
                if made:
                    other.save(
                        claim.number, "reasoning/bridged/0", {"chain": chain.to_dict(), "record": shallow_dict(record)}
                    )
            other.release()
            query = "SELECT COUNT(*) FROM rows WHERE owner IS NOT NULL"
            wait_for(lambda: other._db.execute(query).fetchone() == (n,), 20)

    def answer(number: int, request: dict[str, Any]) -> Answer:
        if number >= 2 and "image_url" not in json.dumps(request["messages"]):  # after the checks: a chain is asked for
            with lock:
                if not overtaken.is_set():
                    overtaken.set()
                    overtake()
        return Answer("<think>a</think><answer>3</answer>")

    with chat_server(answer) as server:
        recipe = yaml.safe_load(write_recipe(tmp_path, server.url, write_rows(tmp_path, n), filters=[]).read_text())
        for teacher in ("vision", "reasoner"):
            recipe[teacher]["timeout_s"] = 25.0
        summary = run(ColdStartRecipe.model_validate(recipe))
    assert summary["rows"] == {"all": n, "done": n, "open": 0, "failed": 0}
    assert len(server.requests) == 2 + (2 + SAMPLES) * n
