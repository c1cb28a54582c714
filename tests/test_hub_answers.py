"""Whatever answers in the place of the hub is one line, names no file outside the cache, and never shows the token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from saccade.data.hub import _checks_of, _limit_time, _limit_wait

TOKEN, SHA = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz1234", "a" * 40
INFO = {"id": "own/set", "sha": SHA, "siblings": [{"rfilename": "train.jsonl"}], "private": False, "tags": []}
TREE = [{"type": "file", "path": "train.jsonl", "size": 31, "oid": "x"}]
GOOD: dict[str, Any] = {"status": 200, "said": "OK", "info": INFO, "tree": TREE, "etag": '"abc"'}
ANSWERS: dict[str, dict[str, Any]] = {
    "good": {},
    "refused": {"status": 401, "said": f"No {TOKEN}", "info": {"error": f"Invalid token {TOKEN}"}},
    "elsewhere": {"status": 307, "said": f"See {TOKEN}"},
    "error": {"info": {"error": "x"}},
    "null": {"info": None},
    "text": {"info": "x"},
    "odd-names": {"info": INFO | {"siblings": [3]}, "tree": [3]},
    "odd-tree": {"tree": {"a": 1}},
    "outside": {"etag": '"../../../../../../evil"'},
    "absolute": {"etag": '"OUTSIDE"'},
    "linked": {"linked": '"../../../../../../evil"'},
    "version": {"info": INFO | {"sha": "../../../../evil"}},
    "plain": {"info": INFO | {"sha": "../../../../evil"}, "kind": "text/html"},
    "commit": {"commit": "/evil"},
    "blob": {"tree": [TREE[0] | {"oid": "../../../../evil"}]},
    "large": {"tree": [TREE[0] | {"lfs": {"oid": "OUTSIDE", "size": 31, "pointerSize": 1}}]},
    "next": {"link": '<http://127.0.0.2:1/steal>; rel="next"'},
    "bare": {"link": 'http://127.0.0.2:1/steal; rel="next"'},
    "half": {"link": '<http://127.0.0.2:1/steal; rel="next"'},
    "long": {"link": f'<http://127.0.0.2:1/{"x" * 5_000}>; rel="next"'},
    "moved": {"status": 302, "to": "/x"},
    "cached": {"status": 302, "to": "/api/resolve-cache/x"},
    "abroad": {"status": 302, "to": "http://127.0.0.2:1/api/x"},
    "refresh": {"refresh": "http://127.0.0.2:1/steal"},
}
READ = """
import sys
from saccade.data.hub_sets import set_files
from saccade.runs.safe_text import safe
for name in sys.argv[1:]:
    try:
        files = set_files(f"own/{name}", None, "train", [".jsonl"])
        print(name, "read", [file.read_text() for file in files])
    except ValueError as error:
        print(name, "refused", safe(str(error)))
"""


class Hub(BaseHTTPRequestHandler):
    """Answers for the set that the address names."""

    outside = ""

    def do_GET(self) -> None:
        answer = GOOD | next(what for name, what in ANSWERS.items() if f"/own/{name}" in self.path)
        api = "/api/" in self.path
        content = answer["tree" if "/tree/" in self.path else "info"] if api else None
        body = (
            json.dumps(content).replace("OUTSIDE", self.outside).encode()
            if api
            else b'{"question": "a?", "answer": "1"}'
        )
        self.send_response(answer["status"], answer["said"])
        if 300 <= answer["status"] < 400:
            self.send_header("location", answer.get("to", f"http://127.0.0.1:1/api/steal?{TOKEN}"))
        self.send_header("content-type", answer.get("kind", "application/json") if api else "text/plain")
        etag = 'W/"38a-8kN1s/q+"' if api else answer["etag"]  # as the hub's own interface marks its answers
        self.send_header("etag", etag.replace("OUTSIDE", self.outside))
        if "linked" in answer:
            self.send_header("x-linked-etag", answer["linked"])
        self.send_header("x-repo-commit", answer.get("commit", SHA))
        for header, name in (("link", "link"), ("x-xet-refresh-route", "refresh")):
            if name in answer:
                self.send_header(header, answer[name])
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Prints nothing."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "own.jsonl").write_text('{"question": "a secret?"}')
    Hub.outside = str(tmp_path / "own.jsonl")
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_answer_of_the_hub_is_one_line_without_the_token_and_names_no_place(tmp_path: Path, address: str) -> None:
    (home := tmp_path / "a/b/c/d/e/home").mkdir(parents=True)
    more = {"HF_ENDPOINT": address, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", READ, *ANSWERS]
    done = subprocess.run(command, env=os.environ | more, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert TOKEN not in done.stdout + done.stderr and "[key]" in found["refused"]
    assert found.keys() == ANSWERS.keys(), "one line each"
    assert found["good"] == """good read ['{"question": "a?", "answer": "1"}']"""
    assert all("cannot be read (" in found[name] for name in ANSWERS if name not in ("good", "odd-tree")), found
    for name in ("outside", "absolute", "linked", "version", "plain", "commit", "blob", "large"):
        assert "in the cache, expected a name without folders" in found[name], found[name]
    for name in ("moved", "cached"):
        assert "from another place, which is none of its interface" in found[name], found[name]
    for name in ("next", "refresh", "bare", "half", "long", "abroad"):
        assert "names the address of another one, '127.0.0.2'" in found[name], found[name]
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and home not in path.parents]
    assert kept == [tmp_path / "own.jsonl"] and not list(Path("/").glob("evil*"))


def test_no_server_chooses_how_long_the_library_waits() -> None:
    headers = httpx2.Headers({"retry-after": "99999", "ratelimit": '"api";r=0;t=99999', "etag": "x"})
    _limit_wait(headers)
    assert dict(headers) == {"etag": "x"}
    for kept in (
        {"retry-after": "7"},
        {"ratelimit": '"api";r=0;t=55'},
        {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"},
    ):
        _limit_wait(headers := httpx2.Headers(kept))
        assert dict(headers) == kept
    for given, limits in ((None, [120.0] * 4), (5.0, [5.0] * 4)):
        _limit_time(request := httpx2.Client().build_request("GET", "http://host/", timeout=given))
        assert list(request.extensions["timeout"].values()) == limits


@pytest.mark.parametrize("content", [None, [], {"objects": 3}, {"objects": [3, {"actions": {"verify": None}}]}])
def test_odd_answers_about_uploads_name_no_address(content: Any) -> None:
    assert _checks_of(content) == []
    href = {"actions": {"verify": {"href": "http://other/"}}}
    assert _checks_of({"objects": [href, {"actions": {"upload": {"href": "http://store/"}}}]}) == ["http://other/"]
