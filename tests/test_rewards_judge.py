"""The judge's reward: it never overturns the rule's yes, and when it fails the reply is masked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from saccade.rewards import PartConfig, RubricConfig, score_all
from saccade.rewards.judged import judge_at
from saccade.types import Completion, Sample


class Server(ThreadingHTTPServer):
    """A chat server that holds 'cat' right, 'dog' wrong, 'cow' ungradable, and is broken for 'fox'."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.keys: list[str | None] = []
        self.open, self.most_open, self.lock = 0, 0, threading.Lock()

    def opened(self, change: int) -> None:
        """Counts the requests that are open at the same time."""
        with self.lock:
            self.open += change
            self.most_open = max(self.most_open, self.open)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = body["messages"][-1]["content"].split("BEGIN STUDENT")[1]
        self.server.asked.append(asked)
        self.server.keys.append(self.headers.get("Authorization"))
        self.server.opened(1)
        time.sleep(0.1)
        self.server.opened(-1)
        verdict = next((v for word, v in VERDICTS.items() if word in asked), "I cannot say")
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": verdict}}
        said = json.dumps({"id": "1", "model": "m", "choices": [choice]}).encode()
        self.send_response(400 if "fox" in asked else 200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Nothing: the test's output is its own."""


VERDICTS = {"cat": "VERDICT: RIGHT", "dog": "VERDICT: WRONG", "cow": "VERDICT: UNGRADABLE"}


@pytest.fixture
def server() -> Iterator[Server]:
    judge_at.cache_clear()
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, daemon=True)
        thread.start()
        yield one
        one.shutdown()


def rubric(at: Server, **options: object):
    part = PartConfig(name="llm_judge", options={"url": at.url, "model": "m", **options})
    return RubricConfig(parts=(part,)).build()


def jobs(one: object, *answers: str) -> list:
    sample = Sample("s", (), "What is it?", "lynx", "text")
    return [(one, Completion(f"<think>a</think><answer>{answer}</answer>"), sample) for answer in answers]


def test_the_judge_is_asked_of_what_the_rule_does_not_accept(server: Server):
    scores = score_all(jobs(rubric(server), "a cat", "a dog", "Lynx."))
    assert [(score.value, score.masked) for score in scores] == [(1.0, None), (0.0, None), (1.0, None)]
    assert len(server.asked) == 2, "the rule's yes is not asked about"


def test_what_the_judge_cannot_say_is_masked_and_never_a_zero(server: Server):
    scores = score_all(jobs(rubric(server), "a cow", "a fox", "a bird"))
    assert all(score.masked is not None for score in scores)
    assert "400" in (scores[1].masked or "") and "judge: unclear" in (scores[2].masked or "")


def test_without_an_answer_nobody_is_asked(server: Server):
    (score,) = score_all([(rubric(server), Completion("a cat"), Sample("s", (), "?", "lynx", "text"))])
    assert (score.value, score.reason, server.asked) == (0.0, "no answer tag", [])


def test_replies_of_a_step_are_judged_at_once(server: Server):
    scores = score_all(jobs(rubric(server), *(f"a cat, the {i}th" for i in range(24))))
    assert [score.value for score in scores] == [1.0] * 24
    assert server.most_open > 1


def test_rewards_around_a_judge_ask_it_at_once_and_only_where_they_need_it(server: Server):
    judge = {"url": server.url, "model": "m"}
    for name, more in (("hard", {}), ("cosine_length", {"max_length": 9})):
        part = PartConfig(name=name, options={"accuracy": "llm_judge", "options": judge, **more})
        rubric = RubricConfig(parts=(part,)).build()
        listed = jobs(rubric, *(f"a cat, the {i}th" for i in range(16)), "a dog", "a fox")
        listed.append((rubric, Completion("<answer>a cat</answer>"), listed[0][2]))
        before, server.most_open = len(server.asked), 0
        scores = score_all(listed)
        assert server.most_open > 1
        assert [score.value for score in scores[:17]] == [1.0] * 16 + [0.0]
        assert scores[17].masked is not None
        assert len(server.asked) - before == (18 if name == "hard" else 19), "hard does not ask about a loose form"
        assert scores == [rubric(completion, sample) for _, completion, sample in listed]


def test_a_cache_pays_once_and_a_key_stands_in_a_file(server: Server, tmp_path: Path):
    (tmp_path / "key").write_text("secret\n")
    judged = rubric(server, server={"cache": str(tmp_path / "replies.db"), "api_key_file": str(tmp_path / "key")})
    for _ in range(2):
        assert [score.value for score in score_all(jobs(judged, "a cat", "a dog"))] == [1.0, 0.0]
    assert len(server.asked) == 2
    assert set(server.keys) == {"Bearer secret"}


def test_reading_a_recipe_opens_nothing(tmp_path: Path):
    options = {"url": "http://127.0.0.1:9", "model": "m", "server": {"cache": str(tmp_path / "replies.db")}}
    RubricConfig(parts=(PartConfig(name="llm_judge", options=options),)).build()
    assert not (tmp_path / "replies.db").exists()


def test_its_options_are_checked_when_the_rubric_is_read():
    for options, words in (
        ({"url": "http://host"}, "needs the option 'model'"),
        (
            {"url": "http://host", "model": "m", "server": {"deadline_s": 0}},
            "deadline_s: input should be greater than 0",
        ),
        ({"url": "http://host", "model": "m", "server": {"dedline_s": 9}}, "dedline_s: extra inputs"),
        ({"url": "http://host", "model": "m", "accuracy": "exact"}, "unknown reward 'exact'"),
        ({"url": "http://host", "model": "m", "server": {"api_key_file": "/none"}}, "cannot be read .No such file"),
        ({"url": "host", "model": "m"}, "host"),
    ):
        with pytest.raises(ValueError, match=words):
            PartConfig(name="llm_judge", options=options)
