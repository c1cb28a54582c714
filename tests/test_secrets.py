"""The key of a server: removed from everything that a server sends back, and in no file of a run and on no terminal."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import logging
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_search import examples
from training_runs import rl_recipe, write_world

from saccade import cli
from saccade.config import ConfigError, dump
from saccade.endpoint import Endpoint, EndpointError, ReplyCache, RequestLimits, user
from saccade.endpoint.client import chat_url
from saccade.endpoint.plain import PlainClient, base_url
from saccade.endpoint.secrets import KeyMask, clean_key, proxy_logins, read_key
from saccade.rewards.judged import judge_at
from saccade.rewards.table import bind
from saccade.runs.safe_text import SafeFormatter, safe, without_password
from saccade.schemas import load_recipe
from tests.benchmark_files import mmstar
from tests.chat_server import Answer, Server, chat_server

KEY = 'sk-SECRET/9f+"Qz~17&&aB'
QUICK = RequestLimits(retries=0, backoff_s=0.0, timeout_s=5.0)


def spellings(key: str) -> dict[str, str]:
    """How a server may repeat a key."""
    b64 = base64.b64encode
    return {
        "plain": key,
        "bearer": f"Bearer {key}",
        "json": json.dumps(key),
        "json in json": json.dumps(json.dumps(key)),
        "json in json in json": json.dumps(json.dumps(json.dumps(key))),
        "repr": repr(f"{key}'"),
        "repr in repr": repr(repr(f"{key}'")),
        "upper case": key.upper(),
        "lower case": key.lower(),
        "json, every letter": "".join(f"\\u{ord(letter):04x}" for letter in key),
        "backslash": "".join(f"\\x{ord(letter):02x}" for letter in key),
        "backslash, 8 digits": "".join(f"\\U{ord(letter):08x}" for letter in key),
        "backslash, braces": "".join(f"\\u{{{ord(letter):x}}}" for letter in key),
        "backslash, octal": "".join(f"\\{ord(letter):03o}" for letter in key),
        "percent": quote(key),
        "percent, every letter": "".join(f"%{ord(letter):02x}" for letter in key),
        "percent in percent": quote(quote(f"token={key}", safe=""), safe=""),
        "percent in percent, every letter": quote("".join(f"%{ord(letter):02x}" for letter in key)),
        "html": html.escape(key),
        "html in html": html.escape("".join(f"&#{ord(letter)};" for letter in key)),
        "html, every letter": "".join(f"&#{ord(letter)};" for letter in key),
        "hex": key.encode().hex(),
        "base64": b64(key.encode()).decode(),
        "base64 of the header": b64(f"Bearer {key}".encode()).decode(),
        "base64 of a pair": b64(f"me:{key}".encode()).decode(),
        "base64 for addresses": base64.urlsafe_b64encode(f"u:{key}".encode()).decode(),
        "cut short": key[: len(key) * 3 // 4],
        "cut at the front": key[len(key) // 3 :],
        "spaced": f"  {key}\n",
        "reversed": key[::-1],
        "base32": base64.b32encode(key.encode()).decode().rstrip("="),
        "base32 of the header": base64.b32encode(f"Bearer {key}".encode()).decode().rstrip("="),
        "letters apart": " ".join(key),
        "letters apart, reversed": "-".join(reversed(key)),
        "a letter a line": "\n".join(key),
        "zero width between": "\u200b".join(key),
        "hex in pairs": key.encode().hex(" "),
        "base64 in lines": "\n".join(re.findall(".{1,7}", b64(key.encode()).decode())),
        "full width": "".join(chr(ord(letter) + 0xFEE0) for letter in key),
    }


def shows(text: str, key: str = KEY) -> bool:
    """Whether a text shows half of the key or more, as it is or encoded."""
    half = (len(key) + 1) // 2
    for form in spellings(key).values():
        part = form.strip()[2:-4] if "=" in form else form.strip()
        n = max(half, len(part) * 2 // 3)
        if any(part[i : i + n] in text for i in range(max(1, len(part) - n))):
            return True
    return any(key[i : i + half] in text for i in range(len(key) - half))


@pytest.mark.parametrize("name", list(spellings(KEY)))
def test_no_spelling_of_the_key_passes_the_mask(name: str) -> None:
    said = spellings(KEY)[name]
    for text in (said, f"Incorrect API key provided: {said}. See the docs.", f"{said}{said} x {said}"):
        masked = KeyMask(KEY).text(text)
        assert "[key]" in masked and not shows(masked), masked
    value = {"a": [{said: said}, 3, None, True], "b": "fine"}
    masked = KeyMask(KEY).json(value)
    assert not shows(json.dumps(masked)) and masked["b"] == "fine" and masked["a"][1:] == [3, None, True]
    assert not shows(KeyMask(KEY).body(json.dumps({"error": said})))


@settings(max_examples=examples(100))
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=60), st.text(max_size=80))
def test_any_key_is_removed_from_any_text_and_nothing_else_is(key: str, text: str) -> None:
    mask = KeyMask(key)
    assert key not in mask.text(f"{text}{key}{text}").replace("[key]", "\0")
    for said in (key, json.dumps(key), json.dumps(json.dumps(key)), repr(key)):
        kept = mask.json({"a": [f"{text}{said}{text}"]})["a"][0].replace("[key]", "\0")
        assert key not in kept and said not in kept
    harmless = "".join(letter for letter in text if letter not in key and letter not in "%&\\" and ord(letter) > 126)
    assert mask.text(harmless) == harmless


APART = "sk-proj-Ab12Cd34Ef56Gh78"


@settings(max_examples=examples(40))
@given(
    st.lists(
        st.text(st.sampled_from('\n\r\t\b\f\0\x01\x1b\x7f "\\/\u2028\U0001f600'), max_size=3), min_size=4, max_size=4
    )
)
def test_json_is_masked_wherever_its_texts_are(between: list[str]) -> None:
    """JSON writes some letters as several; between those of a key there is nothing but what the server put there."""
    mask = KeyMask(APART)
    said = "".join(APART[6 * i : 6 * i + 6] + one for i, one in enumerate(between))
    assert mask.text(said) != said
    for text in (said, json.dumps(said), "\\".join(APART), "\n".join(APART)):
        for value in (text, {"m": text}, {text: 0}, [[{"a": ["b", text]}, "c"], "d"]):
            assert (mask.json(value) != value) == (mask.text(text) != text) is True
    assert mask.json(fine := {"a": ["b", APART[:9], {APART[9:18]: None}]}) == fine  # no text of it is the key


def test_a_key_among_millions_of_letters_is_found_in_bounded_memory() -> None:
    text = "\n".join(APART) + " aa" * 50_000
    tracemalloc.start()
    assert KeyMask(APART).text(text).startswith("[key] aa")
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 10 * len(text)


def test_without_a_secret_replies_stay_as_they_are() -> None:
    for key in (None, "EMPTY", "none", "x"):
        assert KeyMask(key).text("EMPTY none x %41") == "EMPTY none x %41"
    assert KeyMask("token-abc123").text("a token-level loss") == "a token-level loss"
    for key in ("not-needed-here-at-all", "no-key-1"):
        text = f"It is {key.replace('-', ' ')}, said {key}."
        assert KeyMask(key).text(text) == text.replace(key, "[key]")


def test_white_space_around_a_key_is_removed_and_what_no_header_carries_is_refused_unseen() -> None:
    assert [clean_key(key) for key in (f" {KEY}\r\n", "\t", "", None)] == [KEY, None, None, None]
    for bad in (f"{KEY}\nroot:x:0:0", f"{KEY}\x00", f"{KEY}é", f"a\r\n{KEY}"):
        with pytest.raises(ValueError, match=r"cannot be sent in a header \(the key is not shown\)") as caught:
            Endpoint("http://127.0.0.1:9", "m", bad)
        assert KEY not in str(caught.value) and "root" not in str(caught.value)


@pytest.mark.parametrize(
    "form", ["http://me:{}@host:99999", "ftp://me:{}@host", "me:{}@host/v1", "http://{}@", "h?k={}"]
)
def test_no_error_about_an_address_shows_the_password_in_it(form: str) -> None:
    for read in (chat_url, base_url):
        with pytest.raises(ValueError, match="contains a user name, a password") as caught:
            read(form.format(KEY))
        assert KEY not in str(caught.value)


def test_no_line_of_the_log_shows_a_password_that_a_library_quotes() -> None:
    said = f"API request to http://me:{quote(KEY, safe='')}@host/api failed; mail a@b.c"
    assert without_password(said) == "API request to http://[key]@host/api failed; mail a@b.c"
    for secret in ("p@ss", "p/ss", "p:s@/s", "p" * 9_000):
        assert without_password(f"'http://me:{secret}@host:80/a' x@y") == "'http://[key]@host:80/a' x@y"
    assert without_password("/data/https:/me:p@ss@host/x.png: none") == "/data/https:/[key]@host/x.png: none"
    for name in ("p@ss", "me@x.org:p@ss", ":p@ss", "me:p/s@s", "p" * 9_000):
        for begin in ("https:/", "HTTPS:/", "redis://", "https:///"):
            assert without_password(f"{begin}{name}@host/x.png: none") == f"{begin}[key]@host/x.png: none"
    for plain in (
        "at file:/home/a@b",
        "image:/tmp/a:b@2x.png",
        "C:/a:b/c@d",
        "http://host/a@b",
        "https://host:8000/a@b",
        "http://host, a@b.c",
    ):
        assert without_password(plain) == plain
    record = logging.LogRecord("x", logging.WARNING, "x", 1, said, None, None)
    assert "SECRET" not in SafeFormatter("%(message)s").format(record)


@pytest.mark.parametrize("held", [None, b"hf_\xff\xfe", b"hf_AbCdEfGhIjKlMnOp1234"])
def test_a_token_that_cannot_be_read_costs_no_message(tmp_path: Path, monkeypatch, held: bytes | None) -> None:
    place = tmp_path / "token"
    place.mkdir() if held is None else place.write_bytes(held)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(place))
    said = without_password("refused hf_AbCdEfGhIjKlMnOp1234")
    assert said == ("refused [key]" if held and held.isascii() else "refused hf_AbCdEfGhIjKlMnOp1234")


@pytest.mark.parametrize("address", ["https://me:{}@host/x.png?sig=A", "ftp://me:{}@host/x.png", "s3:/me:{}@b/x.png"])
def test_no_verb_shows_the_password_of_an_address_of_a_row_or_of_an_argument(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, file = address.format("secretpw99"), tmp_path / "r.jsonl"
    turns = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "3"}]
    file.write_text(json.dumps({"id": "1", "image": given, "conversations": turns, "task": "count"}) + "\n")
    for words in (
        ("check", file, "--from", "vlm_r1"),
        ("check", file, "--from", "vlm_r1", "--json", "-"),
        ("convert", file, tmp_path / "out", "--from", "vlm_r1"),
        ("predict", given, "How many?"),
        ("report", given),
        ("resume", given),
        ("check", given, "--from", "vlm_r1"),
    ):
        with contextlib.suppress(SystemExit):
            cli.main([str(word) for word in words])
        said = "".join(capsys.readouterr())
        assert "secretpw99" not in said and said, words


def test_a_key_in_place_of_a_name_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the file cannot be read") as caught:
        read_key(KEY, "server.api_key_file")
    assert KEY not in str(caught.value)
    options = {"url": "http://127.0.0.1:9", "model": "m", "server": {"api_key": KEY}}
    with pytest.raises(ValueError, match="api_key") as refused:
        bind("llm_judge", options)
    assert KEY not in str(refused.value)
    (tmp_path / "c.yaml").write_text(json.dumps(coldstart(tmp_path, "http://127.0.0.1:9") | {"vision": teacher(KEY)}))
    with pytest.raises(ConfigError, match="the name of an environment variable") as named:
        load_recipe(str(tmp_path / "c.yaml"))
    assert KEY not in str(named.value)


def echo(said: str) -> Iterator[Answer]:
    """Servers that repeat a text: in an error, in every field of a reply, in the status line, in what is no reply."""
    message = {"content": f"<answer>{said}</answer>", "reasoning_content": said, "role": said}
    choice = {"message": message, "finish_reason": said, "logprobs": {"content": [{"token": said}]}}
    reply = {"choices": [choice], "model": said, "usage": {"completion_tokens": 3, said: 1}}
    yield Answer(status=401, raw=json.dumps({"error": {"message": f"Incorrect API key provided: {said}"}}).encode())
    yield Answer(status=403, raw=said.encode())
    yield Answer(raw=json.dumps(reply).encode())
    yield Answer(raw=said.encode())
    yield Answer(raw=json.dumps({"error": said}).encode())


def test_neither_replies_nor_errors_nor_the_cache_hold_the_key(tmp_path: Path) -> None:
    names = ("plain", "json, every letter", "html, every letter", "base64 of a pair", "cut short", "spaced")
    answers = [answer for name in names for answer in echo(spellings(KEY)[name])]
    cache = ReplyCache(tmp_path / "cache.sqlite")
    with (
        chat_server(lambda i, body: answers[i]) as server,
        Endpoint(server.url, "m", f"{KEY}\n", cache, QUICK) as endpoint,
    ):
        for number, answer in enumerate(answers):
            try:
                found = repr(endpoint.chat([user(str(number))]))
            except EndpointError as error:
                found = f"{error} {error.body!r} {error.__dict__}"
            assert not shows(found), (answer, found)
    cache.close()
    assert len(server.requests) == len(answers)
    assert {one["headers"]["authorization"] for one in server.requests} == {f"Bearer {KEY}"}
    assert not_in_files(tmp_path)


LOGIN = "me:Proxy-Pass 99/xyz"


@pytest.mark.parametrize(
    "said", [LOGIN, LOGIN[3:], base64.b64encode(LOGIN.encode()).decode(), LOGIN[::-1], quote(LOGIN)]
)
def test_a_proxy_that_repeats_its_login_is_shown_without_it(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    with chat_server(lambda i, body: Answer(status=407, raw=f"denied {said}".encode())) as server:
        name, password = (quote(one, safe="") for one in LOGIN.split(":"))
        monkeypatch.setenv("http_proxy", f"http://{name}:{password}@{server.url.partition('//')[2]}")
        endpoint = Endpoint("http://model.example", "m", None, None, QUICK)
        with endpoint, pytest.raises(EndpointError, match=r"407.*denied .*\[key\]") as one:
            endpoint.chat([user("a")])
        with pytest.raises(EndpointError, match=r"407.*denied .*\[key\]") as two:
            PlainClient("http://model.example").post("/v1/models", {}, 5)
        shown = [f"{error.value} {error.value.body}" for error in (one, two)] + [safe(f"407 denied {said}")]
    assert not any(shows(text, LOGIN) or "Pass" in text or said in text for text in shown)
    sent = {name.lower(): value for name, value in server.requests[0]["headers"].items()}
    assert sent["proxy-authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("address", "said", "hidden"),
    [
        ("http://me:p\udce9ssw0rd99@127.0.0.1:1", "denied: p\ufffdssw0rd99", False),
        ("http://answer@proxy:1", "<answer>4</answer>", False),
        ("http://answer:@proxy:1", "<answer>4</answer>", False),
        ("http://me:answer@proxy:1", "<answer>4</answer> me:answer", True),
        ("http://me:answer@proxy:1", "<answer>4</answer>", False),
        ("http://token-4f9a77bb01cc@proxy:1", "token-4f9a77bb01cc", True),
        ("me:answer99@proxy:1", "answer99", True),
        ("http://[::1", "http://[::1", False),
        ("://@@:", "a:b@@", False),
    ],
)
def test_of_a_proxy_only_what_is_a_secret_is_hidden(
    monkeypatch: pytest.MonkeyPatch, address: str, said: str, hidden: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)
    monkeypatch.setenv("OTHER_PROXY", f"http://me:{said}99@host")
    assert (KeyMask(*proxy_logins()).text(said) != said) is hidden
    assert hidden or safe(said) == safe(said.replace("\udce9", "?"))
    with chat_server(lambda i, body: Answer(said)) as server, Endpoint(server.url, "m", None, None, QUICK) as endpoint:
        assert endpoint.chat([user("a")]).text == said, "a server here is asked without a proxy"


def not_in_files(folder: Path) -> bool:
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "key.txt"]
    assert files
    found = [file for file in files if shows(file.read_bytes().decode("latin-1"))]
    assert found == []
    return True


def teacher(variable: str = "OPENAI_API_KEY", url: str = "http://127.0.0.1:9") -> dict[str, Any]:
    return {"teacher": "endpoint", "url": url, "model": "m", "key_variable": variable, "retries": 0}


def coldstart(folder: Path, url: str) -> dict[str, Any]:
    data = [{"source": "vlm_r1", "path": str(folder / "world" / "data.jsonl")}]
    both = {"vision": teacher(url=url), "reasoner": teacher(url=url)}
    return {"kind": "coldstart", "out": str(folder / "set"), "data": data, "attempts": 1} | both


def run(*argv: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in argv])
    return int(ended.value.code or 0)


def test_no_file_and_no_terminal_shows_the_key_after_servers_that_repeat_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Evaluation with a judge, grading, RL with a judge, a cold start: every verb that has a key."""
    monkeypatch.setenv("OPENAI_API_KEY", f"  {KEY}\r\n")
    world = write_world(tmp_path / "world", rows=2)
    (tmp_path / "key.txt").write_text(f"{KEY}\r\n")
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prediction": "a cat", "gold": "a lynx", "kind": "text"}) + "\n")
    answers = list(echo(f"{KEY} {base64.b64encode(KEY.encode()).decode()}"))
    judge_at.cache_clear()
    with chat_server(lambda i, body: answers[2 if i % 3 else 0]) as server:
        commands(tmp_path, world, server)
        assert {one["headers"]["authorization"] for one in server.requests} == {f"Bearer {KEY}"}
    out, err = capfd.readouterr()
    assert not shows(out + err)
    assert not_in_files(tmp_path)


def commands(folder: Path, world: Path, server: Server) -> None:
    (data := folder / "mmstar").mkdir()
    served = [f"model={server.url}", "server.name=m", "batch_size=2", "limit=2"]
    run("eval", "mmstar", f"path={mmstar(data)}", "--out", folder / "eval", *served)  # 2 where no item has an answer
    run("report", folder / "eval")
    options = ("--judge-url", server.url, "--judge-model", "m", "--judge-cache", folder / "judge.sqlite")
    assert run("grade", folder / "pairs.jsonl", "--out", folder / "graded.jsonl", *options) == 0
    (folder / "coldstart.yaml").write_text(json.dumps(coldstart(folder, server.url)))
    run("coldstart", folder / "coldstart.yaml")
    connection = {"api_key_file": str(folder / "key.txt"), "cache": str(folder / "rl.sqlite")}
    part = {"name": "llm_judge", "where": "final", "options": {"url": server.url, "model": "m", "server": connection}}
    rubrics = {"test": {"parts": [part], "truncated": "as_is"}}
    recipe = rl_recipe(world, rubrics=rubrics, num_steps=1, rollout={"max_failed_share": 1.0})
    (folder / "rl.yaml").write_text(dump(recipe))
    assert run("rl", folder / "rl.yaml", "--out", folder / "run") == 0
    assert run("report", folder / "run") == 0
