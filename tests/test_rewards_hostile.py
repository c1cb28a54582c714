"""An own reward may return, raise, print, fork, write and allocate whatever: it costs its own reply at most."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from saccade.rewards import Part, Rubric
from saccade.rewards.own import close_all, load
from saccade.types import Completion, Sample

FILE = """
import ctypes, json, os, struct, subprocess, sys, threading
from saccade.types import Score


class Mine(Score):
    pass


class Liar(float):
    def __float__(self): return self
    def __repr__(self): raise RuntimeError("no repr")


class Silent(Exception):
    def __str__(self): raise RuntimeError("no text")


class Text(str):
    pass


def kind(what):
    if what == "text in a score": return Score("x")
    if what == "None in a score": return Score(None)
    if what == "None": return None
    if what == "a list": return [1.0]
    if what == "a giant": return 10 ** 400
    if what == "a class": return Mine
    if what == "an object": return object()
    if what == "a liar": return Liar(0.5)
    if what == "a complex number": return 1j
    if what == "a forged failure":
        json.dumps = lambda *a: '["done",0,null,[1,2]]'; return 0.5
    if what == "a forged score":
        json.dumps = lambda *a: '["done",0,[1.0,5,{}],null]'; return 0.5
    while what == "a frame again and again":
        for descriptor in range(3, 1100):
            try: os.write(descriptor, b'SACC' + struct.pack(">I", 11) + b'["begun",0]')
            except OSError: pass
    if what == "an exit": sys.exit(3)
    if what == "an interrupt": raise KeyboardInterrupt
    if what == "a generator's end": raise GeneratorExit
    if what == "an error without text": raise Silent
    if what == "a surrogate": raise ValueError("\\ud800")
    if what == "a long error": raise ValueError("x" * 20_000_000)
    if what == "deep recursion": return kind(what) + 1
    if what == "memory": return float(len(bytearray(3 << 30)))
    if what == "death": os._exit(3)
    if what == "garbage":
        for descriptor in range(3, 1000):
            try: os.write(descriptor, b"garbage!")
            except OSError: pass
        return 0.5
    if what == "all closed": os.closerange(0, 1000); return 0.5


def moody(completion, sample):
    what = completion.text
    if what == "a subclass": return Mine(0.5)
    if what == "a reason of a class": return Score(0.5, Mine)
    if what == "a reason with a surrogate": return Score(0.5, "\\udfff")
    if what == "a long reason": return Score(0.5, "x" * 10_000_000)
    if what == "a long output":
        print("\\x1b[2J" + "x" * 5_000_000); return 0.5
    if what == "a fork that comes back":
        os.fork(); return 0.5
    return 0.25 if what == "good" else kind(what)


def forks(completion, sample):
    mark = {**os.environ, "MARK": completion.text}
    for alone in (False, False, True):
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        subprocess.Popen(sleep, env=mark, start_new_session=alone)
    subprocess.run(["sh", "-c", "setsid sh -c 'setsid sleep 600 & exit' & exit"], env=mark)  # a daemon
    if "hang" in completion.text:
        import time
        time.sleep(600)
    if "die" in completion.text:
        ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)  # no longer the parent of orphans
        os._exit(3)
    return 0.5


def trl(completions, **kwargs): return [0.0 for _ in completions]
def trl_prompts(prompts, completions, answer): return [0.0]
def verl(data_source, solution_str, ground_truth, extra_info=None): return 0.0
def easy_r1(reward_inputs): return [{"overall": 0.0}]
def by_keyword(*, completion, sample): return 1.0
def one(completion): return 0.0
class Callable:
    def __call__(self, completion, sample): return 0.0
callable_object = Callable()
"""
MASKED = [
    *("a forged failure", "a forged score", "a frame again and again"),
    *("text in a score", "None in a score", "None", "a list", "a giant", "a class", "an object", "a complex number"),
    *("an exit", "an interrupt", "a generator's end", "an error without text", "a surrogate", "a long error"),
    *("deep recursion", "memory", "death", "garbage", "all closed"),
]
SCORED = [
    *("a subclass", "a reason of a class", "a reason with a surrogate", "a long reason", "a long output"),
    *("a fork that comes back", "a liar"),
]
SAMPLE = Sample("s", (), "?", "3", "count")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("own") / "mine.py"
    path.write_text(FILE)
    yield path
    close_all()


def test_no_value_class_or_exception_costs_more_than_its_reply(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    reward = load(f"{file}:moody", {}, deadline_s=20, memory_gb=2.5)
    texts = [text for bad in MASKED for text in (bad, "good")] + SCORED
    with caplog.at_level(logging.INFO, "saccade"):
        scores = dict(zip(texts, reward.score([(Completion(text), SAMPLE) for text in texts]), strict=True))
    assert [name for name in MASKED if scores[name].masked is None] == []
    assert [(name, scores[name].masked) for name in SCORED if scores[name].value != 0.5] == []
    assert scores["good"].value == 0.25
    for name, score in scores.items():
        assert len(score.masked or "") < 2_000 and len(score.reason or "") < 2_000, name
        (score.masked or "").encode()
        (score.reason or "").encode()
    assert "SystemExit: 3" in (scores["an exit"].masked or "") and "MemoryError" in (scores["memory"].masked or "")
    assert scores["death"].masked == "its process ended with status 3"
    assert len(caplog.text) < 400_000 and "printed more than 64 kB" in caplog.text
    rubric = Rubric([Part("mine.py:moody", reward)])
    assert rubric(Completion("text in a score"), SAMPLE).failed


def marked(text: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARK") == text and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("end", ["hang", "die", "close"])
def test_what_a_reward_started_ends_with_its_process(file: Path, end: str) -> None:
    text = f"{end} {os.getpid()} {time.monotonic()}"
    reward = load(f"{file}:forks", {}, deadline_s=1.5 if end == "hang" else 20)
    score = reward(Completion(text), SAMPLE)
    assert (score.masked is None) == (end == "close")
    close_all()
    until = time.monotonic() + 20
    while marked(text) and time.monotonic() < until:
        time.sleep(0.05)
    assert marked(text) == []


GREETS = """
import json, os, struct
if {when}:
    for descriptor in range(3, 1100):
        body = json.dumps({greeting}).encode()
        try: os.write(descriptor, b"SACC" + struct.pack(">I", len(body)) + body)
        except OSError: pass
def reward(completion, sample):
    open({begun!r}, "w").close()
    if completion.text == "bad": os._exit(1)
    return 1.0
"""


@pytest.mark.parametrize(
    "greeting",
    [
        {"refused": 1},
        {"refused": "a", "traceback": 5},
        {"ready": 5, "is_async": False},
        {"ready": [["1 x", False, "POSITIONAL_ONLY"]], "is_async": False},
        {"ready": [], "is_async": []},
    ],
)
def test_a_forged_greeting_is_one_line_at_first_and_masks_a_reply_later(tmp_path: Path, greeting: dict) -> None:
    file, begun = tmp_path / "greets.py", str(tmp_path / "begun")
    file.write_text(GREETS.format(when=True, greeting=greeting, begun=begun))
    with pytest.raises(ValueError, match=r"^reward '.*greets.py wrote something else than its messages$"):
        load(f"{file}:reward", {})
    file.write_text(GREETS.format(when=f"os.path.exists({begun!r})", greeting=greeting, begun=begun))
    scores = load(f"{file}:reward", {}).score([(Completion(text), SAMPLE) for text in ("good", "bad", "good")])
    assert scores[0].value == 1.0 and scores[1].masked == "its process ended with status 1"
    assert (scores[2].masked or "").endswith("wrote something else than its messages")


HUNG = """
import sys, time
from saccade.workers.process import Worker
worker = Worker("saccade.rewards.own_worker", sys.argv[1], sys.argv[2], "1.0", first=open(sys.argv[1], "rb").read())
worker.send({"jobs": [(None, None)], "options": {}, "concurrency": 1, "deadline_s": 1000.0})
print(worker.receive(20), worker.pid, flush=True)
time.sleep(100)
"""


MID_KILL = """
import os, sys
from saccade.workers import process
worker = process.Worker("saccade.rewards.own_worker", sys.argv[1], "f", "1.0", first=open(sys.argv[1], "rb").read())
sweep = process.end_descendants
process.end_descendants = lambda *given: (sweep(*given), print(worker.pid, flush=True), os.kill(os.getpid(), 9))
worker.kill()
"""


def test_a_worker_is_ended_also_when_its_parent_is_killed_while_it_ends_it(tmp_path: Path) -> None:
    """It is stopped at that moment, and could notice nothing."""
    (tmp_path / "r.py").write_text("def f(completion, sample): return 1.0")
    command, text = [sys.executable, "-c", MID_KILL, str(tmp_path / "r.py")], f"{os.getpid()} {time.monotonic()}"
    ended = subprocess.run(command, env={**os.environ, "MARK": text}, stdout=subprocess.PIPE, timeout=60, check=False)
    assert ended.returncode == -9 and psutil.pid_exists(int(ended.stdout)) and marked(text)
    until = time.monotonic() + 20
    while marked(text) and time.monotonic() < until:
        time.sleep(0.05)
    assert marked(text) == []


@pytest.mark.parametrize("name", ["never", "stopped"])
def test_a_reward_that_hangs_ends_with_a_run_that_was_killed(tmp_path: Path, name: str) -> None:
    file = tmp_path / "hung.py"
    file.write_text(
        "import os, signal, time\n"
        "def never(completion, sample): os.fork() or os.setsid(); time.sleep(100)\n"
        "def stopped(completion, sample): os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    text = f"{name} {os.getpid()} {time.monotonic()}"
    command = [sys.executable, "-c", HUNG, str(file), name]
    with subprocess.Popen(command, env={**os.environ, "MARK": text}, stdout=subprocess.PIPE) as run:
        assert run.stdout and b"begun" in run.stdout.readline()
        run.kill()
    until = time.monotonic() + 20
    while marked(text) and time.monotonic() < until:
        time.sleep(0.05)
    assert marked(text) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("trl", r"rewards of TRL do; .*def score\(completion, sample\): return trl\(.*\)\[0\]"),
        ("trl_prompts", "rewards of TRL do"),
        ("verl", r"rewards of verl do; .*return verl\(sample.task, completion.text, sample.answer\)"),
        ("easy_r1", "rewards of EasyR1 do"),
        ("one", r"takes \(completion\); expected def one\(completion, sample\)"),
        ("by_keyword", r"takes \(\*, completion, sample\); expected def by_keyword\(completion, sample\)"),
        ("Callable", r"'Callable' is a class; write a function: def score\(completion, sample\)"),
        ("callable_object", "'callable_object' is a callable Callable"),
    ],
)
def test_rewards_of_other_trainers_are_recognized_before_a_run_with_the_fix(file: Path, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        load(f"{file}:{name}", {})
    assert "\n" not in str(error.value)


def test_a_process_with_a_thousand_descriptors_still_hears_its_workers(file: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard) if hard > 0 else 2048, hard))
    close_all()  # the next worker's pipes get high numbers
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1030)]
    try:
        assert load(f"{file}:moody", {}, deadline_s=20)(Completion("good"), SAMPLE).value == 0.25
    finally:
        close_all()
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
