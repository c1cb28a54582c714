"""What a served model is sent: every option of sampling, the system turn; what a server refuses is dropped once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saccade.endpoint import Endpoint, RequestLimits
from saccade.evaluation.answerers import Answers, EvalQuestion, Failed, ServedModel
from saccade.evaluation.benchmarking import evaluate
from saccade.evaluation.config import Decoding, EvalRecipe
from saccade.types import Completion, Sample, Turn
from tests.benchmark_files import mmstar
from tests.chat_server import Answer, Server, chat_server

LIMITS = RequestLimits(retries=0, backoff_s=0.0, timeout_s=5.0, concurrency=1)
NEUTRAL = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
SAMPLED = Decoding(greedy=False, temperature=0.7)


def questions(count: int = 3) -> list[EvalQuestion]:
    return [EvalQuestion(Sample(str(i), (), f"{i}?", "1", "count"), f"{i}?", i) for i in range(count)]


def asked(server: Server, decoding: Decoding, count: int = 3) -> tuple[ServedModel, list[Answers]]:
    with Endpoint(server.url, "tiny", limits=LIMITS) as endpoint:
        model = ServedModel(endpoint)
        return model, model.answer(questions(count), decoding, 1)


def sent(request: dict[str, Any]) -> dict[str, Any]:
    return {key: request[key] for key in NEUTRAL if key in request}


@pytest.mark.parametrize("decoding", [Decoding(), SAMPLED], ids=["greedy", "sampled"])
def test_options_that_change_nothing_are_sent_so_that_the_server_fills_in_none(decoding):
    with chat_server(lambda number, request: Answer("A")) as server:
        asked(server, decoding, 1)
    assert sent(server.requests[0]) == NEUTRAL


def test_an_option_that_the_server_names_is_dropped_once_for_the_run(caplog):
    def strict(number: int, request: dict[str, Any]) -> Answer:
        unknown = [key for key in ("top_k", "repetition_penalty") if key in request]
        return Answer(status=400, raw=f"unknown parameter {unknown[0]}".encode()) if unknown else Answer("A")

    with chat_server(strict) as server:
        model, found = asked(server, SAMPLED)
    assert all(not isinstance(one, Failed) for one in found)
    assert [len(sent(request)) for request in server.requests] == [4, 3, 2, 2, 2]
    assert model.refused == {"top_k", "repetition_penalty"}
    assert caplog.text.count("not sent again") == 1


def test_a_rejection_without_a_name_drops_all_that_change_nothing():
    def strict(number: int, request: dict[str, Any]) -> Answer:
        return Answer(status=422, raw=b"extra fields") if len(sent(request)) > 1 else Answer("A")

    with chat_server(strict) as server:
        _, found = asked(server, SAMPLED)
    assert all(not isinstance(one, Failed) for one in found)
    assert [len(sent(request)) for request in server.requests] == [4, 1, 1, 1]


def test_one_question_that_is_too_long_leaves_the_options_of_the_others():
    def full(number: int, request: dict[str, Any]) -> Answer:
        long = request["messages"][-1]["content"] == "1?"
        return Answer(status=400, raw=b"maximum context length exceeded") if long else Answer("A")

    with chat_server(full) as server:
        model, found = asked(server, SAMPLED)
    assert [isinstance(one, Failed) for one in found] == [False, True, False]
    assert not model.refused and sent(server.requests[-1]) == NEUTRAL


def test_an_option_with_an_effect_is_never_dropped():
    def strict(number: int, request: dict[str, Any]) -> Answer:
        return Answer(status=400, raw=b"unknown parameter top_k") if "top_k" in request else Answer("A")

    with chat_server(strict) as server:
        _, (found,) = asked(server, SAMPLED.model_copy(update={"top_k": 7}), 1)
    assert isinstance(found, Failed) and "top_k" in found.reason
    assert {request["top_k"] for request in server.requests} == {7}


def test_the_request_that_was_sent_is_recorded(tmp_path: Path):
    def strict(number: int, request: dict[str, Any]) -> Answer:
        return Answer(status=400, raw=b"unknown parameter min_p") if "min_p" in request else Answer("A")

    with chat_server(strict) as server:
        recipe = EvalRecipe.model_validate(
            {
                "benchmark": "mmstar",
                "path": mmstar(tmp_path),
                "out": str(tmp_path / "run"),
                "model": server.url,
                "server": {"name": "tiny"},
                "kept_images": 0,
                "system_prompt": "Think first.",
                "decoding": {"greedy": False, "max_new_tokens": 9},
            }
        )
        results = evaluate(recipe, limits=LIMITS)
        again = evaluate(recipe, limits=LIMITS)
    kept = {"n": 1, "max_tokens": 9, "temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0}
    assert results["requests"] == again["requests"] == {"sampled": kept}
    assert {request["messages"][0]["content"] for request in server.requests} == {"Think first."}
    assert {request["messages"][0]["role"] for request in server.requests} == {"system"}


def test_a_system_turn_comes_before_the_question():
    with chat_server(lambda number, request: Answer("A")) as server, Endpoint(server.url, "tiny") as endpoint:
        question = EvalQuestion(Sample("1", (), "?", "1", "count"), "?", 1, (Turn("system", "Be brief."),))
        ServedModel(endpoint).answer([question], Decoding(), 1)
    assert server.requests[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "?"},
    ]


def test_options_of_the_template_are_sent_and_limits_of_pixels_are_the_servers(tmp_path: Path):
    given = {"benchmark": "mmstar", "server": {"name": "tiny"}, "path": tmp_path}
    with pytest.raises(ValueError, match=r"model\.max_pixels: a server resizes images by its own checkpoint"):
        EvalRecipe.model_validate(given | {"model": {"path": "http://host/v1", "max_pixels": 9}})
    with chat_server(lambda number, request: Answer("A")) as server:
        model = {"path": server.url, "template_kwargs": {"enable_thinking": False}}
        evaluate(
            EvalRecipe.model_validate(
                given | {"path": mmstar(tmp_path), "out": str(tmp_path / "run"), "model": model, "kept_images": 0}
            ),
            limits=LIMITS,
        )
    assert server.requests[0]["chat_template_kwargs"] == {"enable_thinking": False}


def test_thought_that_the_served_template_opened_reads_as_a_whole_one():
    with chat_server(lambda number, request: Answer("I count.</think><answer>2</answer>")) as server:
        _, (found,) = asked(server, Decoding(), 1)
    assert not isinstance(found, Failed)
    assert [one.text for one in found] == ["<think>I count.</think><answer>2</answer>"]
    assert isinstance(found[0], Completion)
