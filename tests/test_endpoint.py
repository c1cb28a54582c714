"""Laws of the chat client, against a server that fails, hangs and sends garbage."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import sqlite3
import threading
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from property_search import examples

from saccade.endpoint import Endpoint, EndpointError, ReplyCache, RequestLimits, image_url, user
from saccade.endpoint import body as body_module
from saccade.endpoint.client import chat_url
from saccade.endpoint.messages import ChatResponse, Message, parse_response
from saccade.endpoint.plain import PlainClient
from tests.chat_server import Answer, chat_server

QUICK = RequestLimits(retries=2, backoff_s=0.001, timeout_s=5.0)
HELLO = [user("hello")]


def test_a_reply_has_its_text_choices_logprobs_and_counts():
    with chat_server(lambda i, body: Answer("fine", n=body["n"])) as server, Endpoint(server.url, "tiny") as model:
        reply = model.chat(HELLO, n=2, temperature=0.5, logprobs=True)
    assert [choice.text for choice in reply.choices] == ["fine", "fine1"] and reply.text == "fine"
    assert reply.choices[1].logprobs == {"content": [1]} and reply.choices[0].finish_reason == "stop"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.model) == (7, 3, "tiny")
    assert (reply.cached, reply.attempts) == (False, 1) and reply.seconds > 0
    (sent,) = server.requests
    assert sent["path"] == "/v1/chat/completions" and "authorization" not in {k.lower() for k in sent["headers"]}
    assert (sent["model"], sent["messages"], sent["n"], sent["temperature"]) == ("tiny", HELLO, 2, 0.5)


def test_the_key_is_in_the_header_and_in_no_error():
    with (
        chat_server(lambda i, body: Answer(status=401, raw=b"no such key")) as server,
        Endpoint(server.url, "tiny", api_key="sesame", limits=QUICK) as model,
        pytest.raises(EndpointError) as caught,
    ):
        model.chat(HELLO)
    assert server.requests[0]["headers"]["authorization"] == "Bearer sesame"
    message = str(caught.value)
    assert "sesame" not in message and "api_key" in message and "no such key" in message and server.url in message
    assert (caught.value.status, caught.value.attempts, len(server.requests)) == (401, 1, 1)


@pytest.mark.parametrize(
    "bad",
    [
        Answer(status=204, raw=b""),
        *(Answer(status=status) for status in (408, 429, 500, 503)),
        Answer(raw=b"<html>not json</html>"),
        Answer(raw=b'{"error": "none"}'),
        Answer(raw=b'{"choices": []}'),
        Answer(raw=b'{"choices": [3]}'),
        Answer(raw=b'{"choices": [{"message": {"content": [1]}}]}'),
        Answer(raw=b"[1"),
        Answer(raw=b""),
    ],
)
def test_temporary_faults_are_retried_and_permanent_ones_raise(bad):
    with (
        chat_server(lambda i, body: bad if i < 2 else Answer("at last")) as server,
        Endpoint(server.url, "tiny", limits=QUICK) as model,
    ):
        reply = model.chat(HELLO)
    assert (reply.text, reply.attempts) == ("at last", 3)
    with (
        chat_server(lambda i, body: bad) as server,
        Endpoint(server.url, "tiny", limits=QUICK) as model,
        pytest.raises(EndpointError, match="after 3 attempts"),
    ):
        model.chat(HELLO)
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_permanent_errors_are_not_retried_and_have_a_hint(status):
    with (
        chat_server(lambda i, body: Answer(status=status, raw=b"x" * 9000)) as server,
        Endpoint(server.url, "tiny", limits=QUICK) as model,
        pytest.raises(EndpointError) as caught,
    ):
        model.chat(HELLO)
    assert len(server.requests) == 1 and f"status {status}" in str(caught.value) and len(str(caught.value)) < 800


@pytest.mark.parametrize("answer", [Answer(wait_s=4.0), Answer(wait_s=0.05, drip=True)])
def test_a_server_that_hangs_or_drips_hits_the_timeout(answer):
    limits = RequestLimits(retries=1, backoff_s=0.001, timeout_s=0.2)
    with chat_server(lambda i, body: answer) as server, Endpoint(server.url, "tiny", limits=limits) as model:
        began = time.monotonic()
        with pytest.raises(EndpointError, match=r"after 2 attempts: no response within 0\.2 s"):
            model.chat(HELLO)
        assert time.monotonic() - began < 3.0


def test_the_deadline_bounds_all_attempts_and_pauses():
    limits = RequestLimits(retries=50, backoff_s=0.05, deadline_s=0.4)
    with chat_server(lambda i, body: Answer(status=500)) as server, Endpoint(server.url, "t", limits=limits) as model:
        began = time.monotonic()
        with pytest.raises(EndpointError):
            model.chat(HELLO)
        assert time.monotonic() - began < 3.0 and 2 <= len(server.requests) < 20


def test_retry_after_is_respected():
    slow = Answer(status=429, headers={"retry-after": "0.3"})
    with (
        chat_server(lambda i, body: slow if i == 0 else Answer()) as server,
        Endpoint(server.url, "tiny", limits=QUICK) as model,
    ):
        assert 0.3 <= model.chat(HELLO).seconds < 2.0


def test_an_unreachable_server_is_an_error_with_a_hint():
    with chat_server(lambda i, body: Answer()) as server:
        gone = server.url
    with Endpoint(gone, "tiny", limits=QUICK) as model, pytest.raises(EndpointError, match="server runs") as caught:
        model.chat(HELLO)
    assert caught.value.status is None and isinstance(caught.value, OSError)


def at_once(model: Endpoint, conversations: list[list[Message]]) -> list[ChatResponse]:
    """Replies in the order of the conversations, all of which are sent at the same time."""

    async def gathered() -> list[ChatResponse]:
        return await asyncio.gather(*(model.achat(messages) for messages in conversations))

    return asyncio.run(gathered())


def test_no_more_than_the_allowed_number_run_at_once_and_order_is_kept():
    def answer(i, body):
        return Answer(body["messages"][0]["content"], wait_s=0.03)

    with chat_server(answer) as server, Endpoint(server.url, "tiny", limits=RequestLimits(concurrency=3)) as model:
        replies = at_once(model, [[user(str(i))] for i in range(12)])
    assert [reply.text for reply in replies] == [str(i) for i in range(12)]
    assert server.busiest == 3


def test_threads_and_event_loops_share_one_client():
    with chat_server(lambda i, body: Answer()) as server, Endpoint(server.url, "tiny") as model:
        texts: list[str] = []
        threads = [threading.Thread(target=lambda: texts.append(model.chat(HELLO).text)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        async def both() -> list[str]:
            return [reply.text for reply in await asyncio.gather(model.achat(HELLO), model.achat(HELLO))]

        assert texts + asyncio.run(both()) == ["fine"] * 6


def test_a_closed_client_may_be_used_again():
    with chat_server(lambda i, body: Answer()) as server:
        model = Endpoint(server.url, "tiny")
        model.close()
        assert model.chat(HELLO).text == "fine"
        model.close()
        assert model.chat(HELLO).text == "fine"
        model.close()


def test_only_an_identical_request_is_cached(tmp_path):
    with chat_server(lambda i, body: Answer(str(i), n=body.get("n", 1))) as server:
        for _ in range(2):  # the second time from disk, in a new client
            cache = ReplyCache(tmp_path / "sub" / "replies.sqlite")
            with Endpoint(server.url, "tiny", cache=cache) as model:
                replies = [
                    model.chat(HELLO),
                    model.chat(HELLO, n=2),
                    model.chat(HELLO, seed=1),
                    model.chat([user("x")]),
                ]
            cache.close()
    assert [reply.text for reply in replies] == ["0", "1", "2", "3"] and all(reply.cached for reply in replies)
    assert len(replies[1].choices) == 2 and len(server.requests) == 4


def test_concurrent_identical_requests_are_sent_once(tmp_path):
    cache = ReplyCache(tmp_path / "replies.sqlite")
    with (
        chat_server(lambda i, body: Answer(wait_s=0.1)) as server,
        Endpoint(server.url, "tiny", cache=cache, limits=QUICK) as model,
    ):
        replies = at_once(model, [HELLO] * 8)
        assert not model._in_flight
    cache.close()
    assert len(server.requests) == 1 and sum(reply.cached for reply in replies) == 7


def test_a_failure_is_never_cached(tmp_path):
    cache = ReplyCache(tmp_path / "replies.sqlite")
    with (
        chat_server(lambda i, body: Answer(raw=b"{}") if i < 3 else Answer()) as server,
        Endpoint(server.url, "tiny", cache=cache, limits=QUICK) as model,
    ):
        with pytest.raises(EndpointError):
            model.chat(HELLO)
        assert len(cache) == 0 and model.chat(HELLO).cached is False and len(cache) == 1
    cache.close()


def test_the_cache_contains_neither_key_nor_question(tmp_path):
    cache = ReplyCache(tmp_path / "replies.sqlite")
    with (
        chat_server(lambda i, body: Answer()) as server,
        Endpoint(server.url, "tiny", api_key="sesame", cache=cache) as model,
    ):
        model.chat([user("a secret question")])
    cache.close()
    stored = sqlite3.connect(tmp_path / "replies.sqlite").execute("SELECT * FROM replies").fetchall()
    assert "sesame" not in repr(stored) and "secret" not in repr(stored)


def test_a_file_that_is_not_a_cache_is_refused_by_name(tmp_path):
    (tmp_path / "x").write_text("something else entirely, long enough to be no header" * 20)
    with pytest.raises(ValueError, match=r"x: not a reply cache .*delete the file"):
        ReplyCache(tmp_path / "x")


@pytest.mark.parametrize("damage", ["no JSON", "null", "{}", "5", "[" * 5000, '{"choices": [{"message": 5}]}'])
def test_a_damaged_entry_of_the_cache_is_asked_for_again_and_replaced(tmp_path, caplog, damage):
    path = tmp_path / "replies.sqlite"
    with chat_server(lambda i, body: Answer(str(i))) as server:
        texts = []
        for _ in range(3):
            cache = ReplyCache(path)
            with Endpoint(server.url, "tiny", cache=cache) as model:
                texts.append(model.chat(HELLO).text)
            if len(texts) == 1:
                cache._database.execute("UPDATE replies SET body = ?", (damage,))
            cache.close()
    assert texts == ["0", "1", "1"] and caplog.text.count(f"{path}: a reply in it is damaged") == 1


def test_a_cache_whose_file_is_damaged_costs_the_replies_in_it_and_one_warning(tmp_path, caplog):
    path = tmp_path / "replies.sqlite"
    with chat_server(lambda i, body: Answer(str(i))) as server:
        for turn in range(2):
            cache = ReplyCache(path)
            with Endpoint(server.url, "tiny", cache=cache) as model:
                assert [model.chat([user(str(n))]).cached for n in range(3)] == [False] * 3
            cache.close()
            if turn == 0:
                content = path.read_bytes()
                path.write_bytes(content[:4096] + b"U" * (len(content) - 4096))
    assert caplog.text.count(f"{path}: replies cannot be read") == 1


def test_cookies_are_neither_kept_nor_read(capfd):
    """A server that sets new ones with each reply would get all of them back with each request."""
    headers = {"set-cookie": "a=1; Path=/", "set-cookie2": f"b=2; Max-Age={'9' * 5000}"}
    with chat_server(lambda i, body: Answer(headers=headers)) as server:
        with Endpoint(server.url, "tiny") as model:
            assert [model.chat(HELLO).text for _ in range(2)] == ["fine"] * 2
        plain = PlainClient(server.url)
        plain.post("/a", {}, 5.0), plain.post("/b", {}, 5.0)
        plain.close()
    assert len(server.requests) == 4 and not any("cookie" in str(one["headers"]).lower() for one in server.requests)
    assert "Traceback" not in capfd.readouterr().err


def test_json_that_takes_far_more_memory_than_bytes_is_a_failure_of_its_request():
    """Empty lists take 30 times their bytes, objects with a text of wide letters 25 times."""
    raw = b'{"x": [' + b"[]," * 4_000_000 + b"0]," + Answer().body()[1:]
    with chat_server(lambda i, _: Answer(raw=raw)) as server:
        with (
            Endpoint(server.url, "tiny", limits=RequestLimits(retries=0)) as model,
            pytest.raises(EndpointError, match="JSON that may take more than 471,859,200 bytes of memory"),
        ):
            model.chat(HELLO)
        plain = PlainClient(server.url)
        with pytest.raises(EndpointError, match="JSON that may take more than 471,859,200 bytes of memory"):
            plain.post("/x", {}, 5.0)
        plain.close()


@pytest.mark.parametrize("text", ["%" * 8, "\\&", "\U0001f600\U0001f600", '"""', "<0x&26;>", "\\\\\n"])
@pytest.mark.parametrize("escaped", [True, False])
def test_a_reply_may_take_what_its_tokens_ask_for_and_not_more(text: str, escaped: bool) -> None:
    """Sixteen requests at once would take sixteen times what is allowed for one."""
    tokens, junk = 16_384, ', "x": [' + '{"a":0},' * 500_000 + "0]}"
    reply = {"model": "m", "choices": [{"message": {"content": text * tokens, "reasoning_content": text * 99}}]}
    raw = json.dumps(reply, ensure_ascii=escaped)
    with (
        chat_server(lambda i, _: Answer(raw=(raw[:-1] + junk if i else raw).encode())) as server,
        Endpoint(server.url, "tiny", "sk-0123456789abcdef", limits=RequestLimits(retries=0)) as model,
    ):
        assert model.chat(HELLO, max_tokens=tokens).text == text * tokens
        with pytest.raises(EndpointError, match=r"JSON that may take more than 100,663,296 bytes of memory"):
            model.chat(HELLO, max_tokens=tokens)


TOKEN = '{"token":" a\u00e9","logprob":-0.123456789,"bytes":[32,97,195,169],"top_logprobs":[]}'


@pytest.mark.parametrize("wide", ["", "\U0001f600"])
def test_the_memory_of_json_is_known_before_it_is_read(wide):
    """In proportion, on small ones; the largest honest reply passes whole."""
    for unit in (f'{{"a":"{wide}"}}', '{"a":1e1}', "[1]", "[]", "{}", f'"aa{wide}"', "1e1", TOKEN, "[" * 9 + "]" * 9):
        content = f'["{wide}",{",".join([unit] * 5_000)}]'.encode()
        tracemalloc.start()
        json.loads(content)
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert taken < 1.2 * body_module._taken(content), (unit, taken)
    reply = (
        f'{{"choices":[{{"message":{{"content":"{wide}"}},"logprobs":{{"content":[{",".join([TOKEN] * 3_000)}]}}}}]}}'
    )
    assert len(reply.encode()) > 26e4 - 2e4 and body_module._taken(reply.encode()) < body_module.MOST_TAKEN / 100


def test_images_travel_as_data_urls(tmp_path):
    image = Image.new("RGB", (3, 2), (255, 0, 0))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    for source, kind in ((image, "png"), (buffer.getvalue(), "jpeg"), (str(tmp_path / "a.jpg"), "jpeg")):
        head, _, data = image_url(source).partition(",")
        assert head == f"data:image/{kind};base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (3, 2)
    message = user("what?", [image, image])
    assert [part["type"] for part in message["content"]] == ["image_url", "image_url", "text"]
    with pytest.raises(ValueError, match="expected JPEG"):
        image_url(b"hello world")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["choices", "message", "content", "usage", "model", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=examples(2_000))
def test_any_json_is_a_response_or_a_named_fault(body):
    try:
        assert isinstance(parse_response(body).text, str)
    except ValueError as fault:
        assert str(fault)


def test_choices_are_in_the_order_of_their_index_where_each_has_one():
    def texts(*places: Any) -> list[str]:
        choices = [{"index": place, "message": {"content": f"{i}"}} for i, place in enumerate(places)]
        return [choice.text for choice in parse_response({"choices": choices}).choices]

    assert texts(2, 0, 1) == ["1", "2", "0"]
    for odd in ((0, 0), (1, 2), (None, None), ("1", "0"), (True, False), (10**30, 0)):
        assert texts(*odd) == ["0", "1"]


@pytest.mark.parametrize("message", [{"content": "a" * 11_001}, {"content": "a", "reasoning": "b" * 11_001}])
def test_a_reply_far_longer_than_its_limit_of_tokens_is_a_failure(message: dict[str, str]):
    raw = json.dumps({"choices": [{"message": message, "finish_reason": "x" * 9_999}]}).encode()
    limits = RequestLimits(retries=0)
    with chat_server(lambda i, body: Answer(raw=raw)) as server, Endpoint(server.url, "m", limits=limits) as model:
        with pytest.raises(EndpointError, match="11,001 characters is more than max_tokens allows"):
            model.chat(HELLO, max_tokens=10)
        (choice,) = model.chat(HELLO, max_tokens=11).choices
        assert len(choice.finish_reason or "") == 40, "a reason is a word"
        assert model.chat(HELLO).choices == (choice,), "without a limit there is none"


def test_a_separate_reasoning_field_is_kept():
    raw = json.dumps(
        {"choices": [{"message": {"content": None, "reasoning_content": "hm"}, "finish_reason": "length"}]}
    )
    with chat_server(lambda i, body: Answer(raw=raw.encode())) as server, Endpoint(server.url, "tiny") as model:
        (choice,) = model.chat(HELLO).choices
    assert (choice.text, choice.reasoning, choice.finish_reason) == ("", "hm", "length")


@pytest.mark.parametrize(
    ("url", "full"),
    [
        ("http://h:8000", "http://h:8000/v1/chat/completions"),
        ("http://h:8000/", "http://h:8000/v1/chat/completions"),
        ("https://h/v1/", "https://h/v1/chat/completions"),
        ("https://h/api/v3", "https://h/api/v3/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
    ],
)
def test_the_address_is_completed(url, full):
    assert chat_url(url) == full


@pytest.mark.parametrize("url", ["", "h:8000", "ftp://h", "http://", "http://me:word@h/v1", "https://h/v1?key=x"])
def test_an_invalid_address_is_refused(url):
    with pytest.raises(ValueError, match="address"):
        chat_url(url)


@pytest.mark.parametrize("proxy", ["socks9://me:sesame@127.0.0.1:1", "http://me:sesame/@127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used_fails_every_request_at_once_and_unseen(proxy, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with Endpoint("https://api.example.com", "tiny", limits=QUICK) as model:
        for _ in range(2):
            with pytest.raises(EndpointError, match=r"proxy or certificates .*see HTTPS_PROXY") as caught:
                model.chat(HELLO)
            assert "sesame" not in str(caught.value)
    with pytest.raises(ValueError, match="proxy or certificates cannot be used"):
        PlainClient("https://api.example.com")


def test_impossible_limits_and_streams_are_refused():
    for wrong in ({"concurrency": 0}, {"retries": -1}, {"timeout_s": 0}):
        with pytest.raises(ValueError, match="expected concurrency"):
            RequestLimits(**wrong)
    with Endpoint("http://127.0.0.1:9", "tiny") as model, pytest.raises(ValueError, match="stream"):
        model.chat(HELLO, stream=True)


ODD_HEADERS = {
    **{f"charset={name}": {"content-type": f"text/html; charset={name}"} for name in ("hex", "zlib_codec", "idna")},
    "compressed": {"content-encoding": "gzip"},
    "compressed twice": {"content-encoding": "gzip, br"},
    "a pause that is no number": {"retry-after": "nan"},
}


@pytest.mark.parametrize("status", [200, 400, 503])
@pytest.mark.parametrize("headers", ODD_HEADERS.values(), ids=ODD_HEADERS)
def test_whatever_headers_claim_is_an_error_of_that_request_or_nothing(headers, status):
    answer = Answer(raw=b"\xff\x00<html>", status=status, headers=headers)
    with (
        chat_server(lambda i, body: answer) as server,
        Endpoint(server.url, "tiny", limits=RequestLimits(retries=0)) as model,
    ):
        for ask in (lambda: model.chat(HELLO), lambda: PlainClient(server.url).post("/health", {}, 5.0)):
            with pytest.raises(EndpointError):
                ask()


def test_a_response_that_does_not_end_is_left_after_so_many_bytes(monkeypatch):
    monkeypatch.setattr("saccade.endpoint.body.MOST_BYTES", 1000)
    with (
        chat_server(lambda i, body: Answer(raw=b" " * 1001)) as server,
        Endpoint(server.url, "tiny", limits=RequestLimits(retries=0)) as model,
    ):
        for ask in (lambda: model.chat(HELLO), lambda: PlainClient(server.url).post("/health", {}, 5.0)):
            with pytest.raises(EndpointError, match="more than 1,000 bytes"):
                ask()


def test_a_response_may_have_the_bytes_that_its_tokens_can_have():
    def long(i, body):
        letters = b" a" * (700_000 if body["max_tokens"] == 100 else 100_000)
        return Answer(raw=b'{"choices": [{"message": {"content": "sk-secret-12345678' + letters + b'"}}]}')

    with (
        chat_server(long) as server,
        Endpoint(server.url, "tiny", "sk-secret-1234567890", limits=RequestLimits(retries=0)) as model,
    ):
        with pytest.raises(EndpointError, match="more than 1,314,176 bytes"):
            model.chat(HELLO, max_tokens=100)
        assert model.chat(HELLO, max_tokens=100_000).text.startswith("[key] a a")
